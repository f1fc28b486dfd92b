//! `mainstem log`: what it shows of a running server's log, and what of a damaged one.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use mainstem_tests::{Amqp, Mqtt, Server, Setup, server};
use rumqttc::QoS;
use serde_json::Value;
use tempfile::TempDir;

/// Runs `mainstem log`; answers its exit code and what it printed.
fn log(data: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = server::program();
    let output = command.arg("log").args(arguments).arg("--data").arg(data).output().unwrap();
    let mut said = String::from_utf8(output.stdout).unwrap();
    said.push_str(&String::from_utf8(output.stderr).unwrap());
    (output.status.code(), said)
}

fn objects(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names, sizes and contents of all files below `dir` that a look must not change.
fn picture(dir: &Path) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(picture(&path));
        } else {
            files.insert((path.clone(), fs::read(&path).unwrap()));
        }
    }
    files
}

/// Something of every kind that an ordinary day writes.
async fn work(server: &Server) {
    let ports = server.ports();
    let amqp = Amqp::connect(ports.amqp).await;
    amqp.queue("orders", Some(("amq.topic", "plant.#"))).await;
    amqp.queue("other", None).await;
    let mut mqtt = Mqtt::resume(ports.mqtt, "device").await;
    mqtt.subscribe("plant/+", QoS::AtLeastOnce).await;
    mqtt.publish("plant/oven", false, b"21.5").await;
    mqtt.next().await;
    for _ in 0..3 {
        amqp.publish("", "other", b"body").await;
    }
    assert_eq!(amqp.take("orders").await.as_deref(), Some(b"21.5".as_slice()));
    mqtt.disconnect().await;
    amqp.connection.close(200, "bye".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspect_verify_and_stats_read_a_running_servers_log_and_change_nothing() {
    let mut server = Server::start_with(&["store.segment_bytes=67108864"]);
    work(&server).await;
    let data = server.data_dir().to_owned();
    let (code, said) = log(&data, &["verify"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the log is sound: "), "{said}");

    let (code, said) = log(&data, &["inspect"]);
    assert_eq!(code, Some(0), "{said}");
    let publish = said.lines().find(|line| line.contains(" publish ")).unwrap();
    for word in ["address=plant/oven", "from=mqtt", "bytes=4", "orders@0", "plant/+@0", ".seg+"] {
        assert!(publish.contains(word), "no {word} in {publish}");
    }
    for kind in ["declare-queue", "bind", "session", "subscribe", "open-cursor", "settle"] {
        assert!(said.lines().any(|line| line.contains(&format!(" {kind} "))), "no {kind}:\n{said}");
    }

    let (code, said) = log(&data, &["inspect", "--json", "--queue", "other", "--kind=publish"]);
    assert_eq!(code, Some(0), "{said}");
    let published = objects(&said);
    assert_eq!(published.len(), 3, "{said}");
    let last = &published[2];
    assert_eq!(
        (&last["says"]["to"][0]["name"], &last["says"]["bytes"]),
        (&"other".into(), &4.into())
    );
    assert_eq!(last["says"]["to"][0]["offset"], 2);
    let from = published[1]["position"].as_u64().unwrap().to_string();
    let arguments = ["inspect", "--json", "--from", &from, "--limit=1"];
    assert_eq!(objects(&log(&data, &arguments).1), [published[1].clone()]);
    let (code, said) = log(&data, &["inspect", "--queue=none"]);
    assert_eq!((code, said.as_str()), (Some(2), "mainstem: no queue 'none' in this log\n"));

    assert!(server.terminate().success());
    let before = picture(&data);
    let (code, said) = log(&data, &["stats", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let stats = &objects(&said)[0];
    let total = &stats["total"];
    assert_eq!((&total["records"], &total["entries"]["publish"]), (&4.into(), &4.into()), "{said}");
    let live = total["live_bytes"].as_u64().unwrap();
    assert!(live > 0 && live <= total["bytes"].as_u64().unwrap(), "{said}");
    let (code, said) = log(&data, &["stats"]);
    assert!(code == Some(0) && said.contains("live: ") && said.contains("4 records"), "{said}");
    assert_eq!(log(&data, &["verify"]).0, Some(0));
    assert!(picture(&data) == before, "a look changed the data directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_the_file_and_the_byte_of_damage() {
    let data = TempDir::new().unwrap();
    let mut server = Server::start_setup(Setup::new(data.path()));
    work(&server).await;
    assert!(server.terminate().success());
    let (_, said) = log(data.path(), &["inspect", "--json", "--queue=other", "--kind=publish"]);
    let published = objects(&said);
    let (damaged, next) = (&published[1], &published[2]);
    let path = data.path().join("log").join(damaged["file"].as_str().unwrap());
    let offset = damaged["file_offset"].as_u64().unwrap();
    flip(&path, offset + damaged["size"].as_u64().unwrap() - 1);

    let (code, said) = log(data.path(), &["verify", "--json"]);
    assert_eq!(code, Some(1), "{said}");
    let found = &objects(&said)[0];
    assert_eq!(found["damaged"], path.display().to_string());
    assert_eq!(
        (&found["offset"], &found["position"]),
        (&damaged["file_offset"], &damaged["position"])
    );
    // What verifies next is the frame that opens the batch of the record behind.
    let resume = found["resume"]["position"].as_u64().unwrap();
    let (from, to) = (damaged["position"].as_u64().unwrap(), next["position"].as_u64().unwrap());
    assert!(from < resume && resume <= to, "{said}");
    let (code, said) = log(data.path(), &["verify"]);
    let words = format!("DAMAGED {} at byte {offset} (position {from}): ", path.display());
    assert!(code == Some(1) && said.contains(&words) && said.contains("1 damaged place"), "{said}");
    assert_eq!(log(data.path(), &["inspect"]).0, Some(1));

    let (code, said) = log(&data.path().join("nothing"), &["verify"]);
    assert!(code == Some(2) && said.contains("cannot read"), "{said}");
}

/// Changes one bit.
pub(crate) fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, offset).unwrap();
}
