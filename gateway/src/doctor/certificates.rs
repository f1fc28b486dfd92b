//! The certificates: whether they can be used, and how long.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Finding, span};
use crate::{Config, tls};

const ABOUT: &str = "certificate";
const DAY: Duration = Duration::from_secs(86_400);
/// From when on one is about to expire, and from when on that is urgent.
const SOON: Duration = Duration::from_secs(30 * DAY.as_secs());
const URGENT: Duration = Duration::from_secs(7 * DAY.as_secs());

pub(super) fn look(config: &Config, now: SystemTime) -> Vec<Finding> {
    let is_own = config.tls.certificate.as_os_str().is_empty();
    let (own, own_key) = tls::own_files(&config.data_dir);
    if is_own && !own.exists() {
        return vec![Finding::fine(ABOUT, "one will be made, signed by itself")];
    }
    if is_own && !own_key.exists() {
        let words = format!(
            "{} is missing: a start makes another certificate, which clients do not trust yet",
            own_key.display()
        );
        return vec![Finding::bad(ABOUT, words)];
    }
    if let Err(error) = tls::certificates(config) {
        return vec![Finding::bad(ABOUT, error.to_string())];
    }
    let file = if is_own { own } else { config.tls.certificate.clone() };
    let name = file.display().to_string();
    match tls::not_after(&file) {
        Ok(until) => vec![judge(&name, until, now)],
        Err(error) => vec![Finding::bad(ABOUT, error.to_string())],
    }
}

fn judge(name: &str, until: u64, now: SystemTime) -> Finding {
    let until = UNIX_EPOCH + Duration::from_secs(until);
    match until.duration_since(now) {
        Err(past) => Finding::bad(ABOUT, format!("{name} expired {} ago", span(past.duration()))),
        Ok(left) if left < URGENT => {
            Finding::bad(ABOUT, format!("{name} expires in {}: replace it", span(left)))
        }
        Ok(left) if left < SOON => {
            Finding::doubtful(ABOUT, format!("{name} expires in {}", span(left)))
        }
        Ok(left) => Finding::fine(ABOUT, format!("{name} is good for {}", span(left))),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{super::Verdict, *};
    use crate::config::Layer;

    /// A certificate that ends on the first of a month, beside its key.
    fn config(folder: &Path, year: i32) -> Config {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let (certificate, secret) = (folder.join("c.pem"), folder.join("k.pem"));
        fs::write(&certificate, made.pem()).unwrap();
        fs::write(&secret, key.serialize_pem()).unwrap();
        let sets = [("tls.certificate", certificate), ("tls.key", secret)];
        let sets = sets.map(|(name, path)| Layer::Set(format!("{name}={}", path.display())));
        Config::load(&sets).unwrap()
    }

    #[test]
    fn a_certificate_that_ends_soon_or_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 2030);
        // 2030-01-01
        let end = UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        let found = |now| look(&config, now).remove(0);
        for (before, verdict, words) in [
            (60, Verdict::Fine, "is good for 60 days"),
            (20, Verdict::Doubtful, "expires in 20 days"),
            (3, Verdict::Bad, "expires in 3 days: replace it"),
        ] {
            let found = found(end - DAY * before);
            assert_eq!(found.verdict, verdict, "{found:?}");
            assert!(found.words.contains(words), "{found:?}");
        }
        let past = found(end + DAY * 5);
        assert_eq!(past.verdict, Verdict::Bad);
        assert!(past.words.ends_with("c.pem expired 5 days ago"), "{past:?}");
        fs::write(folder.path().join("k.pem"), "no key").unwrap();
        let broken = found(end - DAY * 60);
        assert_eq!(broken.verdict, Verdict::Bad);
        assert!(broken.words.contains("k.pem"), "{broken:?}");
    }

    #[test]
    fn a_missing_key_is_told_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let sets = [Layer::Set(format!("data_dir={}", folder.path().display()))];
        let config = Config::load(&sets).unwrap();
        let found = || look(&config, UNIX_EPOCH).remove(0);
        assert_eq!(found().verdict, Verdict::Fine);
        let (certificate, key) = tls::own_files(folder.path());
        assert!(!certificate.exists());
        fs::create_dir(certificate.parent().unwrap()).unwrap();
        fs::write(&certificate, "kept").unwrap();
        let told = found();
        assert_eq!(told.verdict, Verdict::Bad);
        assert!(told.words.contains("key.pem is missing"), "{told:?}");
        assert!(!key.exists() && fs::read(&certificate).unwrap() == b"kept");
    }
}
