//! QoS 2 over crashes: a client that sends again what it has no PUBCOMP for, as it must, and a
//! reader that counts.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use mainstem_tests::{Mqtt, Server};
use rumqttc::QoS;

const ROUNDS: u8 = 4;
const EACH: u8 = 30;

struct Device(TcpStream);

impl Device {
    /// MQTT 3.1.1 without clean session.
    fn connect(port: u16) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01d").unwrap();
        let mut connack = [0; 4];
        socket.read_exact(&mut connack).unwrap();
        assert_eq!((connack[0], connack[3]), (0x20, 0));
        Self(socket)
    }

    fn publish(&mut self, dup: bool, id: u8, body: [u8; 2]) {
        let first = 0x34 | u8::from(dup) << 3;
        self.0.write_all(&[first, 7, 0, 1, b'q', 0, id, body[0], body[1]]).unwrap();
    }

    fn release(&mut self, id: u8) {
        self.0.write_all(&[0x62, 2, 0, id]).unwrap();
    }

    fn expect(&mut self, first: u8, id: u8) {
        let mut packet = [0; 4];
        self.0.read_exact(&mut packet).unwrap();
        assert_eq!(packet, [first, 2, 0, id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_2_is_taken_once_over_kills() {
    let mut server = Server::start();
    let mut reader = Mqtt::resume(server.ports().mqtt, "reader").await;
    reader.subscribe("q", QoS::AtLeastOnce).await;
    reader.disconnect().await;
    for round in 0..ROUNDS {
        let body = |id: u8| [round, id];
        let mut device = Device::connect(server.ports().mqtt);
        for id in 1..=EACH {
            device.publish(false, id, body(id));
        }
        // The server dies when a third is released, a third stored, and a third on its way.
        for id in 1..=EACH * 2 / 3 {
            device.expect(0x50, id);
        }
        for id in 1..=EACH / 3 {
            device.release(id);
        }
        let mut completed = 0;
        while completed < EACH / 3 {
            let mut packet = [0; 4];
            device.0.read_exact(&mut packet).unwrap();
            completed += u8::from(packet[0] == 0x70);
        }
        server.restart();
        let mut device = Device::connect(server.ports().mqtt);
        for id in EACH / 3 + 1..=EACH {
            device.publish(true, id, body(id));
            device.expect(0x50, id);
            device.release(id);
            device.expect(0x70, id);
        }
        // Released identifiers are free: the same number is another message.
        device.publish(false, 1, [round, 0]);
        device.expect(0x50, 1);
        device.release(1);
        device.expect(0x70, 1);
    }
    let mut copies: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut reader = Mqtt::resume(server.ports().mqtt, "reader").await;
    let total = usize::from(ROUNDS) * (usize::from(EACH) + 1);
    while copies.values().sum::<u32>() < u32::try_from(total).unwrap() {
        *copies.entry(reader.next().await.body).or_default() += 1;
    }
    let twice: Vec<_> = copies.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty() && copies.len() == total, "twice: {twice:?}");
}
