//! The common name in a certificate's subject, and when it ends, read from its DER encoding (X.690, RFC 5280).
//!
//! Only certificates that were verified, or are our own, come here, so what is odd is not refused: it has none.

use std::str;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, before the serial number of a certificate of version 3.
const VERSION: u8 = 0xa0;
/// 2.5.4.3
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// The common name of the certificate's subject; the last one, where there are more.
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let mut fields = from_validity(certificate)?;
    take(&mut fields)?;
    let (mut subject, _) = expect(SEQUENCE, fields)?;
    let mut name = None;
    while !subject.is_empty() {
        let (mut set, rest) = expect(SET, subject)?;
        subject = rest;
        while !set.is_empty() {
            let (attribute, rest) = expect(SEQUENCE, set)?;
            set = rest;
            let (object, value) = expect(OBJECT, attribute)?;
            if object == COMMON_NAME {
                name = text(value);
            }
        }
    }
    name
}

/// When the certificate ends, in seconds since 1970 (RFC 5280 §4.1.2.5).
#[must_use]
pub fn not_after(certificate: &[u8]) -> Option<u64> {
    let (mut validity, _) = expect(SEQUENCE, from_validity(certificate)?)?;
    take(&mut validity)?;
    let (tag, content, _) = split(validity)?;
    let text = str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: u64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let mut parts = [0; 5];
    for (at, part) in parts.iter_mut().enumerate() {
        *part = rest.get(at * 2..at * 2 + 2)?.parse().ok()?;
    }
    let [month, day, hour, minute, second] = parts;
    Some(days(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970 to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_date = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    // A year begins with March, so that the odd day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    let before = year * 365 + leaps + (month * 153 + 2) / 5 + day - 1;
    // From the first of March of the year 0 to 1970.
    is_date.then(|| before - 719_468)
}

/// The fields of a certificate from its validity on.
fn from_validity(certificate: &[u8]) -> Option<&[u8]> {
    let (mut certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut fields, _) = expect(SEQUENCE, take(&mut certificate)?)?;
    if fields.first() == Some(&VERSION) {
        take(&mut fields)?;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        take(&mut fields)?;
    }
    Some(fields)
}

fn text(value: &[u8]) -> Option<String> {
    let (tag, content, _) = split(value)?;
    match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => {
            str::from_utf8(content).ok().map(str::to_owned)
        }
        _ => None,
    }
}

/// The content of the element in front, which must have this tag, and what follows it.
fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = split(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Takes the element in front, whole.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (_, _, rest) = split(bytes)?;
    let (whole, _) = bytes.split_at_checked(bytes.len() - rest.len())?;
    *bytes = rest;
    Some(whole)
}

/// Tag, content and what follows. A length has its value in seven bits, or in as many bytes as
/// they say.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, bytes) = bytes.split_first()?;
    let (first, mut bytes) = bytes.split_first()?;
    let mut length = usize::from(first & 0x7f);
    if first & 0x80 != 0 {
        let (digits, rest) = bytes.split_at_checked(length)?;
        if digits.len() > size_of::<u32>() {
            return None;
        }
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        bytes = rest;
    }
    let (content, rest) = bytes.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let mut out = vec![tag, 0x82];
        out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        out.extend(content);
        out
    }

    fn certificate(version: &[u8], names: &[(u8, &str)]) -> Vec<u8> {
        let attribute = |(last, name): &(u8, &str)| {
            let object = [OBJECT, 3, 0x55, 0x04, *last];
            let value = element(UTF8_STRING, &[name.as_bytes()]);
            element(SET, &[&element(SEQUENCE, &[&object, &value])])
        };
        let subject: Vec<u8> = names.iter().flat_map(attribute).collect();
        let serial = [2, 1, 7];
        let filler = element(SEQUENCE, &[]);
        let subject = element(SEQUENCE, &[&subject]);
        let fields = [version, &serial, &filler, &filler, &filler, &subject, &filler];
        element(SEQUENCE, &[&element(SEQUENCE, &fields), &filler])
    }

    #[test]
    fn the_end_is_read_in_both_ways_of_writing_a_time() {
        let ends = |tag, text: &str| {
            let begin = element(UTC_TIME, &[b"200101000000Z"]);
            let end = element(tag, &[text.as_bytes()]);
            let validity = element(SEQUENCE, &[&begin, &end]);
            let filler = element(SEQUENCE, &[]);
            let fields = [&[2, 1, 7][..], &filler, &filler, &validity, &filler];
            not_after(&element(SEQUENCE, &[&element(SEQUENCE, &fields), &filler]))
        };
        assert_eq!(ends(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(ends(UTC_TIME, "300101000000Z"), Some(1_893_456_000));
        assert_eq!(ends(GENERALIZED_TIME, "20240229235959Z"), Some(1_709_251_199));
        assert_eq!(ends(GENERALIZED_TIME, "20500301000000Z"), Some(2_529_705_600));
        for odd in ["", "Z", "300101000000", "301301000000Z", "3001010000Z", "30é101000000Z"] {
            assert_eq!(ends(UTC_TIME, odd), None, "{odd}");
        }
        assert_eq!(ends(GENERALIZED_TIME, "19690101000000Z"), None);
        assert_eq!(not_after(&certificate(&[], &[])), None);
    }

    #[test]
    fn the_common_name_is_found_among_others() {
        let version = [VERSION, 3, 2, 1, 2];
        let whole = certificate(&version, &[(10, "Plant"), (3, "oven-7"), (6, "DE")]);
        assert_eq!(common_name(&whole).as_deref(), Some("oven-7"));
        assert_eq!(common_name(&certificate(&[], &[(3, "old")])).as_deref(), Some("old"));
        assert_eq!(common_name(&certificate(&version, &[(10, "Plant")])), None);
        for end in 0..whole.len() {
            let cut = common_name(whole.get(..end).unwrap());
            assert_eq!(cut, None, "cut at {end}");
        }
    }
}
