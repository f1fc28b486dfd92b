//! What a client is told of the readers there are, and who counts as nobody.

use super::*;

#[tokio::test]
async fn a_publish_without_readers_is_taken_and_says_so() {
    let server = start().await;
    let mut peer = Peer::new(&server, "a").await;
    let qos_1 = packet(0x32, b"\0\x01t\0\x02\0hi");
    let qos_2 = packet(0x34, b"\0\x01t\0\x03\0hi");
    peer.say(&[&qos_1[..], &qos_2].concat()).await;
    peer.expect(&[0x40, 3, 0, 2, 0x10]).await;
    peer.expect(&[0x50, 3, 0, 3, 0x10]).await;
    peer.say(&[0x62, 2, 0, 3]).await;
    peer.expect(&[0x70, 2, 0, 3]).await;
    let (mut reader, _) = Peer::hello(&server, Hello { id: "b", expiry_s: 60, ..HELLO }).await;
    reader.subscribe("t", 1).await;
    peer.say(&qos_1).await;
    peer.expect(&[0x40, 2, 0, 2]).await;
    // A session that is away is a reader, too.
    reader.lose().await;
    peer.say(&qos_1).await;
    peer.expect(&[0x40, 2, 0, 2]).await;
}

#[tokio::test]
async fn an_empty_name_without_a_password_is_none() {
    let server = start().await;
    let connect = |flags, rest: &[u8]| {
        packet(0x10, &[b"\0\x04MQTT\x05", &[flags][..], b"\0\0\0\0\x01a", rest].concat())
    };
    let mut peer = Peer::open(&server).await;
    peer.say(&connect(0x82, b"\0\0")).await;
    assert_eq!(peer.hear().await.unwrap().body[1], 0);
    let mut peer = Peer::open(&server).await;
    peer.say(&connect(0xc2, b"\0\0\0\0")).await;
    assert_eq!(peer.hear().await.unwrap().body[1], 0x86);
}
