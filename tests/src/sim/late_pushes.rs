//! A host that is slow to handle pushes, while answers reach it (N3 of `dfs_net::rpc::push`): what a server has sent it unasked is set
//! aside, and comes later than all that was sent after it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use dfs_proto::frame::{FrameKind, HEADER_LEN, decode_header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use turmoil::net::TcpStream;

use super::plan::OVER_INTERVAL;

/// Whether pushes are late now.
#[derive(Default)]
pub(super) struct LatePushes(AtomicBool);

impl LatePushes {
    pub(super) fn set(&self, are_late: bool) {
        self.0.store(are_late, Ordering::SeqCst);
    }

    fn are_late(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn on(self: Arc<LatePushes>, stream: TcpStream) -> Sorted {
        Sorted {
            stream,
            pushes: self,
            arrived: BytesMut::new(),
            set_aside: BytesMut::new(),
            ready: BytesMut::new(),
            next_look: None,
            has_ended: false,
        }
    }
}

/// A connection of which pushes may come late.
pub(super) struct Sorted {
    stream: TcpStream,
    pushes: Arc<LatePushes>,
    /// The beginning of a frame.
    arrived: BytesMut,
    /// Whole pushes.
    set_aside: BytesMut,
    /// Whole frames, for whoever reads.
    ready: BytesMut,
    /// While something is set aside.
    next_look: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
}

impl Sorted {
    fn sort(&mut self) {
        while let Some(head) = self.arrived.first_chunk::<HEADER_LEN>() {
            let Ok(header) = decode_header(head) else {
                self.ready.unsplit(self.arrived.split()); // whoever reads it ends the connection
                return;
            };
            let len = HEADER_LEN + header.body_len + header.payload_len;
            if self.arrived.len() < len {
                return;
            }
            let frame = self.arrived.split_to(len);
            match header.kind == FrameKind::Push && self.pushes.are_late() {
                true => self.set_aside.unsplit(frame),
                false => self.ready.unsplit(frame),
            }
        }
    }

    fn is_late_no_more(&mut self) {
        self.next_look = None;
        self.ready.unsplit(self.set_aside.split());
    }

    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 8192];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
        self.has_ended = read.filled().is_empty();
        self.arrived.extend_from_slice(read.filled());
        self.sort();
        if self.has_ended {
            self.is_late_no_more();
            self.ready.unsplit(self.arrived.split());
        }
        Poll::Ready(Ok(()))
    }

    /// Looks from time to time whether pushes are still late.
    fn poll_late(&mut self, context: &mut Context<'_>) {
        while !self.set_aside.is_empty() {
            if !self.pushes.are_late() {
                return self.is_late_no_more();
            }
            let look = self.next_look.get_or_insert_with(|| Box::pin(sleep(OVER_INTERVAL)));
            if look.as_mut().poll(context).is_pending() {
                return;
            }
            self.next_look = None;
        }
    }
}

impl AsyncRead for Sorted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.poll_late(context);
            if !self.ready.is_empty() {
                let len = self.ready.len().min(out.remaining());
                out.put_slice(&self.ready[..len]);
                self.ready.advance(len);
                return Poll::Ready(Ok(()));
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_arrived(context))?;
        }
    }
}

impl AsyncWrite for Sorted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
