//! Power cuts and failing disks under a whole server: what was confirmed is there, in order, and
//! what was settled and synced does not come again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use mainstem_tests::{Amqp, Deadline, Server, Setup, disk::Disk, server};

const CUTS: u64 = 10;
const END_S: u64 = 30;

fn setup(disk: &Disk) -> Setup {
    let mut setup = Setup::new(disk.path());
    // Small, so that segments end, checkpoints happen and files are used again between cuts.
    setup.settings = ["store.segment_bytes=1048576", "store.message_bytes_max=262144"]
        .into_iter()
        .chain(["store.checkpoint_bytes=1048576"])
        .map(str::to_owned)
        .collect();
    setup
}

/// Runs `mainstem log verify` on the disk.
fn verify(disk: &Disk) -> (Option<i32>, String) {
    let mut command = server::program();
    let output = command.args(["log", "verify", "--data"]).arg(disk.path()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_outlives_power_cuts_and_what_was_settled_does_not_come_again() {
    let Some(mut disk) = Disk::mount() else { return };
    let mut server = Server::start_setup(setup(&disk));
    let (mut published, mut taken, mut undone) = (0_u64, 0_u64, 0);
    Amqp::connect(server.ports().amqp).await.queue("q", None).await;
    for cut in 0..CUTS {
        let amqp = Amqp::connect(server.ports().amqp).await;
        // What was confirmed before the cut is there, first and in order.
        let ready = u64::from(amqp.ready("q").await);
        assert!(ready >= published - taken, "cut {cut}: {ready} of {} are left", published - taken);
        assert_eq!(ready, published - taken, "cut {cut}: what was settled came again");
        for number in published..published + 40 {
            amqp.publish("", "q", &body(number)).await;
        }
        published += 40;
        for _ in 0..30 {
            assert_eq!(amqp.take("q").await, Some(body(taken)), "cut {cut}");
            taken += 1;
        }
        // Settlements are on the disk once a publish is confirmed that came after them; the first
        // one may overtake what the same read of the socket brought.
        for number in published..published + 2 {
            amqp.publish("", "q", &body(number)).await;
        }
        published += 2;
        // Then some that nobody confirms.
        let flood = {
            let channel = amqp.channel.clone();
            tokio::spawn(async move {
                loop {
                    let options = lapin::options::BasicPublishOptions::default();
                    let properties = lapin::BasicProperties::default().with_delivery_mode(2);
                    let sent = channel.basic_publish(
                        "".into(),
                        "lost".into(),
                        options,
                        &[1; 5000],
                        properties,
                    );
                    if sent.await.is_err() {
                        return;
                    }
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(20 + 13 * cut)).await;
        server.kill();
        flood.abort();
        undone += disk.unsynced_pages();
        disk.cut_power();
        let (code, said) = verify(&disk);
        assert_eq!(code, Some(0), "cut {cut}: {said}");
        server.restart();
    }
    println!("power test: {CUTS} cuts undid {undone} pages; {published} confirmed, {taken} taken");
    let amqp = Amqp::connect(server.ports().amqp).await;
    for number in taken..published {
        assert_eq!(amqp.take("q").await, Some(body(number)));
    }
    assert_eq!(amqp.take("q").await, None);
    assert!(server.terminate().success());
}

/// 20 kB that begin with their number.
fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(20_000, 7);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_process_with_file_and_byte_and_is_not_retried() {
    let Some(disk) = Disk::mount() else { return };
    let mut server = Server::start_setup(setup(&disk));
    let amqp = Amqp::connect(server.ports().amqp).await;
    amqp.queue("q", None).await;
    amqp.publish("", "q", b"kept").await;
    disk.fail_syncs(".seg");
    let sent = {
        let options = lapin::options::BasicPublishOptions::default();
        let properties = lapin::BasicProperties::default().with_delivery_mode(2);
        amqp.channel.basic_publish("".into(), "q".into(), options, b"lost", properties).await
    };
    let confirm = tokio::time::timeout(Duration::from_secs(END_S), sent.unwrap()).await;
    let confirm = confirm.expect("an answer, or the end of the connection");
    let is_confirmed = matches!(confirm, Ok(lapin::Confirmation::Ack(_)));
    assert!(!is_confirmed, "a publish was confirmed whose sync failed");
    let status = Deadline::seconds(END_S).until("the server to end", || server.ended());
    assert_eq!(status.code(), Some(74), "EX_IOERR");
    let log = server.log();
    let said = log.iter().find(|line| line.starts_with("mainstem: cannot sync "));
    let said = said.unwrap_or_else(|| panic!("no file is named:\n{}", log.join("\n")));
    assert!(said.contains(".seg at byte "), "{said}");
    assert_eq!(disk.failed_syncs(), 1, "a failed sync was tried again");
}
