//! Lets everybody in but those with the password `bad`, or an empty one without a name, and has one
//! challenge for all.

use mainstem_broker::{Authenticator, Challenge, LoginError};
use mainstem_schemas::{Credentials, Principal, Secret};

pub(super) struct Everybody;

impl Authenticator for Everybody {
    fn verify(&self, credentials: &Credentials) -> Result<Principal, LoginError> {
        let name = match &credentials.secret {
            Secret::Password { password, .. } if password == b"bad" => {
                return Err(LoginError::BadCredentials);
            }
            Secret::Scram { proof, .. } if proof != b"proof" => {
                return Err(LoginError::BadCredentials);
            }
            Secret::Password { user, password } if user.is_empty() && password.is_empty() => {
                return Err(LoginError::BadCredentials);
            }
            Secret::Scram { user, .. } => user.as_str(),
            _ => "anybody",
        };
        let namespace = credentials.namespace.as_str();
        Ok(Principal::named(name, namespace))
    }

    fn challenge(&self, _user: &str) -> Option<Challenge> {
        Some(Challenge { nonce: "server".to_owned(), salt: b"salt".to_vec(), iterations: 4096 })
    }

    fn countersign(&self, user: &str, said: &[u8]) -> Vec<u8> {
        assert!(said.starts_with(format!("n={user},r=client,r=clientserver,s=").as_bytes()));
        b"signed".to_vec()
    }
}
