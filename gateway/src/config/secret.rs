//! Secrets that stand elsewhere: `env:NAME` is what a variable of the environment holds, `file:PATH` the first line of
//! a file.

use std::{env, fs};

use super::{ConfigError, User};

const VARIABLE: &str = "env:";
const FILE: &str = "file:";

/// Whether a key's value is not for everybody's eyes.
pub(super) fn is_secret(key: &str) -> bool {
    matches!(key.rsplit('.').next(), Some("password" | "secret_key"))
}

/// Whether a value says where the secret is.
pub(super) fn is_reference(text: &str) -> bool {
    text.starts_with(VARIABLE) || text.starts_with(FILE)
}

/// Puts the secrets themselves in the place of what says where they are.
pub(super) fn resolve(users: &mut [User]) -> Result<(), ConfigError> {
    for user in users {
        for (key, text) in
            [("users.password", &mut user.password), ("users.secret_key", &mut user.secret_key)]
        {
            *text = read(key, text)?;
        }
    }
    Ok(())
}

fn read(key: &str, text: &str) -> Result<String, ConfigError> {
    let wrong = |reason: String| ConfigError::Meaning { key: key.to_owned(), reason };
    if let Some(name) = text.strip_prefix(VARIABLE) {
        return env::var(name)
            .map_err(|_| wrong(format!("names the variable {name}, which is not set")));
    }
    if let Some(path) = text.strip_prefix(FILE) {
        let read = fs::read_to_string(path);
        let read = read.map_err(|error| wrong(format!("cannot be read from {path}: {error}")))?;
        return Ok(read.lines().next().unwrap_or_default().to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Layer};

    use super::*;

    #[test]
    fn secrets_are_read_from_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "s3cret\nnot this\n").unwrap();
        // The one variable that is set wherever tests run.
        let load = |password: &str| {
            let set = format!("users=[{{name='a', password='{password}', secret_key='plain'}}]");
            Config::load(&[Layer::Set(set)])
        };
        let user = |password: &str| load(password).unwrap().users.remove(0);
        assert_eq!(user(&format!("file:{}", path.display())).password, "s3cret");
        assert_eq!(user("env:PATH").password, env::var("PATH").unwrap());
        assert_eq!(
            (user("x").password, user("x").secret_key),
            ("x".to_owned(), "plain".to_owned())
        );
        let told = load("file:/no/such").unwrap_err().to_string();
        assert!(told.starts_with("'users.password' cannot be read from /no/such: "), "{told}");
        let told = load("env:NO_SUCH_NAME").unwrap_err().to_string();
        assert_eq!(told, "'users.password' names the variable NO_SUCH_NAME, which is not set");
    }
}
