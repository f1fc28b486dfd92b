//! QoS 2 over crashes: a client that sends again what it has no PUBCOMP for, as it must, and a
//! reader that counts.

use std::{
    collections::{BTreeMap, BTreeSet},
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
        Self::connect_as(port, b'd')
    }

    fn connect_as(port: u16, id: u8) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
            .write_all(&[b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01".as_slice(), &[id]].concat())
            .unwrap();
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

/// A reader of QoS 2 that keeps what it has received over its connections, as it must.
#[derive(Default)]
struct Reader {
    /// Identifiers that were received and not released.
    held: BTreeSet<u16>,
    copies: BTreeMap<Vec<u8>, u32>,
}

impl Reader {
    /// Reads so many packets, answers them, and tells how many it got before the end.
    fn go_on(&mut self, socket: &mut TcpStream, packets: usize) -> usize {
        for count in 0..packets {
            let mut head = [0; 2];
            if socket.read_exact(&mut head).is_err() {
                return count;
            }
            let mut body = vec![0; usize::from(head[1])];
            socket.read_exact(&mut body).unwrap();
            let (answer, at) = match head[0] {
                0x34 | 0x3c => (0x50, 3),
                0x62 => (0x70, 0),
                first => panic!("what is {first:x}?"),
            };
            let id = u16::from_be_bytes([body[at], body[at + 1]]);
            if answer == 0x70 {
                self.held.remove(&id);
            } else if self.held.insert(id) {
                *self.copies.entry(body[5..].to_vec()).or_default() += 1;
            }
            socket.write_all(&[answer, 2, body[at], body[at + 1]]).unwrap();
        }
        packets
    }

    fn connect(port: u16) -> TcpStream {
        let socket = Device::connect(port).0;
        // Silence ends a round.
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_2_is_delivered_once_over_kills() {
    let mut server = Server::start();
    let mut reader = Reader::default();
    let mut socket = Reader::connect(server.ports().mqtt);
    socket.write_all(b"\x82\x06\0\x01\0\x01q\x02").unwrap();
    let mut suback = [0; 5];
    socket.read_exact(&mut suback).unwrap();
    assert_eq!(suback, *b"\x90\x03\0\x01\x02");
    for round in 0..8 {
        let mut writer = Device::connect_as(server.ports().mqtt, b'w');
        for id in 1..=EACH {
            writer.publish(false, id, [round, id]);
        }
        for id in 1..=EACH {
            writer.expect(0x50, id);
        }
        for id in 1..=EACH {
            writer.release(id);
            writer.expect(0x70, id);
        }
        // Some are received, some of them released, and some of the answers read by nobody.
        reader.go_on(&mut socket, usize::from(round) * 45 + 1);
        if round % 2 == 1 {
            std::thread::sleep(Duration::from_millis(100));
        }
        server.restart();
        socket = Reader::connect(server.ports().mqtt);
    }
    socket.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
    while reader.go_on(&mut socket, 1) > 0 {}
    let twice: Vec<_> = reader.copies.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "twice: {twice:?}");
    assert_eq!(reader.copies.len(), 8 * usize::from(EACH));
    assert!(reader.held.is_empty(), "never released: {:?}", reader.held);
}
