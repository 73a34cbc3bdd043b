//! The simulated network: turmoil's TCP behind the `Net` seam.
//!
//! Fault model: segments arrive in order or never (turmoil does not retransmit: a lost one is a connection that hangs);
//! links are cut both ways or one way, and held; a crashed host's connections vanish. Addresses are `host:port` with
//! turmoil's host names. A host may be slow to handle pushes (`late_pushes`).

use std::io;
use std::sync::Arc;

use dfs_net::env::{BoxFuture, Listener, Net, Stream};

use super::late_pushes::LatePushes;

/// Usable only inside a turmoil host.
#[derive(Default)]
pub(super) struct SimNet {
    /// Of the connections that this host makes.
    pub(super) pushes: Option<Arc<LatePushes>>,
}

impl Net for SimNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (address, pushes) = (address.to_owned(), self.pushes.clone());
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(match pushes {
                Some(pushes) => Box::new(pushes.on(stream)) as Box<dyn Stream>,
                None => Box::new(stream),
            })
        })
    }

    fn bind(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        // A host listens on all of its addresses: turmoil knows no others.
        let port = address.rsplit(':').next().unwrap_or("0").to_owned();
        Box::pin(async move {
            let listener = turmoil::net::TcpListener::bind(format!("0.0.0.0:{port}")).await?;
            Ok(Box::new(SimListener(listener)) as Box<dyn Listener>)
        })
    }
}

struct SimListener(turmoil::net::TcpListener);

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            Ok((Box::new(stream) as Box<dyn Stream>, from.to_string()))
        })
    }

    fn local_address(&self) -> String {
        self.0.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }
}
