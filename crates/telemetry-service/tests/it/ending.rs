use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::World;

#[test]
fn stopping_lets_idle_connections_go_and_closes_the_port() {
    let mut world = World::new(&[]);
    // One that is kept alive after its answer, one that never said anything, one in the middle of its request.
    let mut kept = world.connect();
    write!(kept, "HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut start = [0; 12];
    kept.read_exact(&mut start).expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 200");
    let _silent = world.connect();
    let mut halfway = world.connect();
    write!(halfway, "GET /health HTTP/1.1\r\nHost:").expect("sent");
    world.stop().expect("the server ends well");
    assert!(TcpStream::connect(world.address).is_err(), "the port still takes connections");
}
