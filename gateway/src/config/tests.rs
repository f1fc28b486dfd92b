//! Tests of the configuration: the default file is whole, and mistakes are named.

use super::{Config, ConfigError, Layer};

fn load_file(text: &str) -> Result<Config, ConfigError> {
    Config::load(&[Layer::File { path: "m.toml".into(), text: text.to_owned() }])
}

fn load_set(text: &str) -> Result<Config, ConfigError> {
    Config::load(&[Layer::Set(text.to_owned())])
}

fn message<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

/// The names of the fields `T` reads, from the words serde refuses a foreign one with.
fn fields<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let Err(error) = toml::from_str::<T>("'no such field' = 1") else {
        panic!("a foreign field was taken");
    };
    let names: Vec<_> = error.message().split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(names.first().map(String::as_str), Some("no such field"), "{}", error.message());
    names.into_iter().skip(1).collect()
}

#[test]
fn every_field_is_in_the_default_file() {
    let file: toml::Table = toml::from_str(super::DEFAULTS).unwrap();
    let check = |section: Option<&str>, fields: Vec<String>| {
        let table = section.map_or(&file, |name| file[name].as_table().unwrap());
        let mut written: Vec<_> = table.keys().cloned().collect();
        let mut read = fields;
        written.sort();
        read.sort();
        assert_eq!(written, read, "in section {section:?}");
    };
    check(None, fields::<Config>());
    check(Some("store"), fields::<super::Store>());
    check(Some("listeners"), fields::<super::Listeners>());
    check(Some("tls"), fields::<super::Tls>());
    check(Some("http"), fields::<super::Http>());
    check(Some("interop"), fields::<super::Interop>());
    check(Some("log"), fields::<super::Log>());
    check(Some("amqp"), fields::<mainstem_amqp::Limits>());
    check(Some("mqtt"), fields::<mainstem_mqtt::Limits>());
    check(Some("rocketmq"), fields::<mainstem_rocketmq::Limits>());
    let user: Vec<_> = file["users"][0].as_table().unwrap().keys().cloned().collect();
    let mut read = fields::<super::User>();
    read.sort();
    assert_eq!(user, read);
}

#[test]
fn the_default_file_gives_each_crates_defaults() {
    let config = Config::default();
    let text = |value: &dyn std::fmt::Debug| format!("{value:#?}");
    let broker = mainstem_broker::Config::new(config.data_dir.clone());
    assert_eq!(text(&config.broker()), text(&broker));
    assert_eq!(text(&config.amqp), text(&mainstem_amqp::Limits::default()));
    assert_eq!(text(&config.mqtt), text(&mainstem_mqtt::Limits::default()));
    assert_eq!(text(&config.rocketmq), text(&mainstem_rocketmq::Limits::default()));
}

#[test]
fn every_key_of_the_default_file_is_commented() {
    let mut commented = false;
    for line in super::DEFAULTS.lines() {
        let starts = |mark: &str| line.starts_with(mark);
        if line.contains(" = ") && !starts("#") {
            assert!(commented || line.contains('#'), "no comment on: {line}");
        }
        commented = starts("#") || (commented && !line.is_empty() && !starts("["));
    }
}

#[test]
fn a_later_layer_wins() {
    let file = Layer::File { path: "m.toml".into(), text: "[store]\ncommands_max = 7".to_owned() };
    let config = Config::load(&[file, Layer::Set("store.commands_max=8".to_owned())]).unwrap();
    assert_eq!(config.store.commands_max, 8);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    assert_eq!(
        message(load_file("data_dir = \"x\"\n\n[listeners.ampq]\nbind = \"0.0.0.0:1\"")),
        "m.toml line 3: unknown key 'listeners.ampq' (did you mean 'listeners.amqp'?)"
    );
    assert_eq!(
        message(load_set("stor.segment_bytes=1")),
        "--set stor.segment_bytes=1: unknown key 'stor' (did you mean 'store'?)"
    );
    assert_eq!(
        message(load_file("[[users]]\nname = \"a\"\npasword = \"b\"")),
        "m.toml line 1: unknown key 'users.pasword' (did you mean 'users.password'?)"
    );
}

#[test]
fn a_wrong_type_is_named_with_the_expected_one() {
    assert_eq!(
        message(load_file("[store]\nsegment_bytes = \"big\"")),
        "m.toml line 2: 'store.segment_bytes' must be an integer, found text"
    );
    assert_eq!(
        message(load_set("store=1")),
        "--set store=1: 'store' must be a section, found an integer"
    );
    assert_eq!(
        message(load_set("data_dir.x=1")),
        "--set data_dir.x=1: 'data_dir' must be text, found a section"
    );
}

#[test]
fn a_wrong_value_is_named_with_the_reason() {
    assert!(message(load_file("\nanonymous = \"yes\"")).starts_with(
        "m.toml line 2: 'anonymous' is wrong: unknown variant `yes`, expected one of"
    ));
    assert!(
        message(load_set("listeners.mqtt.bind=here"))
            .contains("'listeners.mqtt.bind' is wrong: invalid socket address")
    );
    assert_eq!(
        message(load_set("store.segment_bytes=1000")),
        "'store.segment_bytes' must be a power of two"
    );
}

#[test]
fn a_demanded_certificate_needs_an_authority() {
    for name in ["amqps", "mqtts"] {
        let told = message(load_set(&format!("listeners.{name}.client_certificate_required=true")));
        let wanted =
            format!("'listeners.{name}.client_ca' must be set if a certificate is required");
        assert_eq!(told, wanted);
    }
}

#[test]
fn what_may_wait_for_mqtt_clients_is_the_stores_business() {
    let sets = ["queued_messages_max=7", "queued_age_max_s=2", "queued_drop='newest'"];
    let layers = sets.map(|set| Layer::Set(format!("mqtt.{set}")));
    let away = Config::load(&layers).unwrap().broker().away;
    assert_eq!((away.records_max, away.bytes_max, away.age_ms_max), (7, 0, 2000));
    assert_eq!(away.drops, mainstem_broker::Drops::Newest);
}

#[test]
fn a_set_takes_text_without_quotes_and_lists() {
    assert_eq!(load_set("data_dir=5").unwrap().data_dir.to_str(), Some("5"));
    let users = load_set("users=[{name='a', password='b'}]").unwrap().users;
    assert_eq!((users.len(), users[0].name.as_str(), users[0].loopback_only), (1, "a", false));
}

#[test]
fn text_that_is_no_toml_is_named_with_its_line() {
    assert!(message(load_file("data_dir = \"x\"\n=")).starts_with("m.toml line 2: not TOML: "));
}

#[test]
fn origins_are_named_as_browsers_name_them() {
    let load = |origin: &str| load_set(&format!("http.origins=['{origin}']"));
    for origin in ["https://panel.example", "http://192.0.2.1:8080", "http://[2001:db8::1]:3000"] {
        assert_eq!(load(origin).unwrap().http.origins, [origin]);
    }
    for odd in [
        "null",
        "*",
        "",
        "panel.example",
        "https://",
        "https://panel.example/",
        "https://panel.example/page",
        "https://panel.example?page",
        "https://panel.example:",
        "https://panel.example:http",
        "https://user@panel.example",
        " https://panel.example",
    ] {
        let told = message(load(odd));
        assert!(told.starts_with("'http.origins' must name pages as scheme://host"), "{told}");
        assert!(told.ends_with(&format!("found '{odd}'")), "{told}");
    }
}
