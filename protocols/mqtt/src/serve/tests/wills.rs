//! Wills that are kept: how they go where the store takes nothing, and which of several counts.

use mainstem_broker::{Client, Inbox, Publish as Offer};

use super::*;
use crate::{
    codec::{Connect, Version, connect},
    normalize::testament::{Safe, Testament},
};

/// Checkpoints that are asked for until there is room.
const CHECKPOINTS_MAX: usize = 100;

async fn own(server: &Server) -> (Client, Inbox) {
    server.broker.own_client("/").await.unwrap()
}

async fn kept(client: &Client) -> usize {
    client.retained(Safe::all()).await.unwrap().len()
}

#[tokio::test]
async fn a_full_store_forgets_a_will_and_publishes_it_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_within(dir, Limits::default(), 64 << 20).await;
    let (client, _inbox) = own(&server).await;
    let hoarder = Hello { id: "hoarder", expiry_s: 60, ..HELLO };
    let (mut peer, _) = Peer::hello(&server, hoarder).await;
    peer.subscribe("fill", 1).await;
    peer.lose().await;
    let mut watcher = Peer::new(&server, "watcher").await;
    watcher.subscribe("w", 0).await;
    let hello = |id| Hello { id, will_delay_s: Some(0), ..HELLO };
    let (polite, _) = Peer::hello(&server, hello("polite")).await;
    let (lost, _) = Peer::hello(&server, hello("lost")).await;
    assert_eq!(kept(&client).await, 2);
    let mut writer = Peer::new(&server, "writer").await;
    let body = [text("fill").as_slice(), &[0, 9, 0], &vec![0; 1 << 20]].concat();
    let fill = packet(0x32, &body);
    let mut written = 0;
    loop {
        writer.say(&fill).await;
        let puback = writer.hear().await.unwrap();
        if puback.body.get(2) == Some(&0x97) {
            break;
        }
        written += 1;
        assert!(written < 100, "the store fills");
    }
    polite.disconnect(&[]).await;
    assert_eq!(kept(&client).await, 1, "it is forgotten");
    lost.lose().await;
    watcher.expect_nothing().await;
    assert_eq!(kept(&client).await, 1, "it is refused");
    // The next one has no session, so that what it hoarded goes.
    Peer::hello(&server, Hello { expiry_s: 0, ..hoarder }).await.0.disconnect(&[]).await;
    // The session's end may come to the store after the first of them has begun.
    for _ in 0..CHECKPOINTS_MAX {
        server.broker.checkpoint().await.unwrap();
        if kept(&client).await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    watcher.expect(WILL).await;
    assert_eq!(kept(&client).await, 0);
}

#[tokio::test]
async fn the_newest_of_a_clients_wills_is_published_by_the_next_start() {
    let server = start().await;
    let hello = Hello { id: "watcher", expiry_s: 60, clean: false, ..HELLO };
    let (mut watcher, _) = Peer::hello(&server, hello).await;
    watcher.subscribe("w", 1).await;
    watcher.lose().await;
    let (client, _inbox) = own(&server).await;
    for payload in [b"1", b"2", b"3"] {
        // A will of QoS 1.
        let body = [b"\0\x04MQTT\x05\x0e\0\0\0\0\x01d\0\0\x01w\0\x01".as_slice(), payload].concat();
        let Connect { will: Some(will), .. } =
            connect::decode(&Frame { first: 0x10, body: body.into() }).unwrap()
        else {
            panic!("it has a will")
        };
        let (version, client_id, user) = (Version::V5, "d".to_owned(), "u".to_owned());
        let testament = Testament { version, client_id, user, session_expiry_s: 0, will };
        let stamp = client.stamp();
        let record = Safe::new(stamp.id).record("/", stamp, &testament.encode()).unwrap();
        client.publish(vec![Offer::new(record)]).await.unwrap().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(kept(&client).await, 3);
    drop(client);
    let Server { broker, shutdown, task, dir, .. } = server;
    shutdown.cancel();
    task.await.unwrap();
    broker.stop().await;
    drop(broker);
    let server = start_in(dir, Limits::default()).await;
    assert_eq!(kept(&own(&server).await.0).await, 0);
    let (mut watcher, present) = Peer::hello(&server, hello).await;
    assert!(present);
    watcher.expect(b"\x32\x07\0\x01w\0\x01\x003").await;
    watcher.expect_nothing().await;
}
