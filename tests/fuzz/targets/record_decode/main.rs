//! Arbitrary bytes as a stored record, and everything that is read from one.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mainstem_schemas::{
    Dialect, Filter, Path, Record, RecordDraft, Value, flags, value::decode_table, wire::Reader,
};

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(record) = Record::decode(bytes.clone()) {
        check_record(&record);
    }
    if let Ok(value) = Value::decode(&mut Reader::new(bytes.clone())) {
        let mut out = Vec::new();
        value.encode(&mut out);
        let again = Value::decode(&mut Reader::new(out.clone().into())).expect("our own bytes");
        let mut twice = Vec::new();
        // By bytes, since a float may be no number.
        again.encode(&mut twice);
        assert_eq!(out, twice);
    }
    let _not_a_table = decode_table(bytes.clone());
    if let Ok(filter) = Filter::decode(&mut Reader::new(bytes.clone())) {
        let _matches = filter.matches(&Path::from_raw(bytes.clone()));
        let _text = filter.render();
    }
    check_names(&bytes);
});

/// What an accessor hands out is in the record, and makes the same record again.
fn check_record(record: &Record) {
    let (address, native, data) = (record.address(), record.native(), record.data());
    let _path = address.path();
    let _entrance = address.entrance();
    let mut draft = RecordDraft::new(&address, record.namespace(), &native, &data);
    draft.flags = record.flags() & !flags::LITE;
    draft.id = record.id();
    (draft.now, draft.expiry) = (record.appended(), record.expiry());
    draft.deliver_at = record.deliver_at();
    (draft.priority, draft.qos) = (record.priority(), record.qos());
    (draft.publisher, draft.partition) = (record.publisher(), record.partition());
    let again = draft.encode().expect("it was a record");
    assert_eq!(again.address(), address);
    assert_eq!((again.native(), again.data()), (native, data));
}

/// A name that crosses protocols and comes back is the same name.
fn check_names(bytes: &[u8]) {
    for dialect in [Dialect::Amqp, Dialect::Mqtt] {
        let path = Path::parse(bytes, dialect);
        for other in [Dialect::Amqp, Dialect::Mqtt] {
            let words = path.render(other);
            assert_eq!(Path::parse(&words, other), path, "{words:?} does not come back");
        }
    }
}
