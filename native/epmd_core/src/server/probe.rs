//! A probe of the VM's health: one HTTP request on the port, and its response.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use rustix::fd::AsFd;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::access::Origin;
use super::http::{self, Asked, Response, MAX_HEAD};
use super::shared::Shared;

/// Who knows what probes ask for.
pub(crate) trait Examine: Debug + Send + Sync {
    fn examine(&self, asked: Asked) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

/// These bytes, which begin no request of EPMD, if they begin a probe that its sender may make.
pub(super) fn begun(shared: &Shared, bytes: &[u8], peer: SocketAddr, connection: impl AsFd) -> Option<Vec<u8>> {
    if !http::begins(bytes) {
        return None;
    }
    let policy = &shared.settings.read().policy;
    if !policy.health {
        return None;
    }
    if let Some(reason) = policy.refuses_probes(Origin::from_connection(peer, connection.as_fd())) {
        shared.metrics().not_permitted.count();
        tracing::debug!(%peer, %reason, "a probe is not permitted");
        return None;
    }
    Some(bytes.into())
}

/// The response to a probe that begins with these bytes.
pub(super) async fn answer(
    shared: &Shared,
    stream: &mut TcpStream,
    mut head: Vec<u8>,
    peer: SocketAddr,
) -> io::Result<Response> {
    let response = loop {
        match http::decode(&head) {
            Ok(Some(asked)) => {
                shared.metrics().probes.count();
                break match &shared.examiner {
                    Some(examiner) => examiner.examine(asked).await,
                    None => Response::not_found("no VM is served here"),
                };
            }
            Ok(None) if (&mut *stream).take((MAX_HEAD - head.len()) as u64).read_buf(&mut head).await? == 0 => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(None) => {}
            Err(response) => {
                shared.metrics().malformed.count();
                break response;
            }
        }
    };
    tracing::trace!(%peer, status = ?response.status, "probe");
    Ok(response)
}
