//! Which addresses of this network namespace are listened on, by whatever process, as the kernel tells everybody.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr};

/// The tables of TCP sockets. Listeners are in the first lines, and the rest may be long.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
const LISTENS: &str = "0A";

/// The addresses that are listened on at this port.
///
/// # Errors
///
/// Where the system has no such tables. A table of a family that it does not have is left out.
pub(crate) fn listened_on(port: u16) -> io::Result<Vec<IpAddr>> {
    let mut found = listened_in(TABLES[0], port)?;
    match listened_in(TABLES[1], port) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        more => found.extend(more?),
    }
    Ok(found)
}

fn listened_in(table: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let lines = BufReader::new(File::open(table)?).lines().skip(1).map_while(Result::ok);
    let listeners = lines.map_while(|line| listener(&line));
    Ok(listeners.flatten().filter(|address| address.port() == port).map(|address| address.ip()).collect())
}

/// The address of a line, if it is that of a listener; inside, `None` if the address cannot be read.
fn listener(line: &str) -> Option<Option<SocketAddr>> {
    let columns: Vec<_> = line.split_whitespace().take(4).collect();
    (columns.get(3) == Some(&LISTENS)).then(|| address(columns[1]))
}

/// An address as the kernel prints it: as words in host byte order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let bytes = |word: &[u8]| Some(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes());
    let octets: Vec<_> = words.as_bytes().chunks(8).map(bytes).collect::<Option<Vec<_>>>()?.concat();
    let ip = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets.as_slice()).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_of_both_families_are_found_by_their_port() {
        let first = TcpListener::bind("127.0.0.3:0").expect("a free port");
        let port = first.local_addr().expect("it is bound").port();
        assert_eq!(listened_on(port).expect("a table"), ["127.0.0.3".parse::<IpAddr>().expect("an address")]);
        let _second = TcpListener::bind(("::1", port)).expect("it is another family");
        let both: Vec<IpAddr> = ["127.0.0.3", "::1"].map(|ip| ip.parse().expect("an address")).into();
        assert_eq!(listened_on(port).expect("a table"), both);
    }

    #[test]
    fn what_does_not_listen_ends_the_list_and_what_cannot_be_read_is_skipped() {
        assert_eq!(listener("0: 0100007F:1111 0100007F:2222 01 00"), None);
        assert_eq!(listener("0: 0100007F 00000000:0000 0A 00"), Some(None));
        assert_eq!(listener(""), None);
    }
}
