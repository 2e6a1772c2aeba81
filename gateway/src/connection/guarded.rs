//! A TCP stream that gives up on clients who keep it waiting: for the rest of a request's headers, or
//! for room to write a response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::activity::Activity;

pub struct Guarded {
    stream: TcpStream,
    /// Read before the protocol was known.
    first_bytes: BytesMut,
    activity: Arc<Activity>,
    headers: Option<HeaderClock>,
    writes: Countdown,
}

impl Guarded {
    /// `header_deadline` counts from a request's first byte until it is in work. HTTP/2 connections have
    /// none: between requests they carry frames that begin none.
    pub fn new(
        stream: TcpStream,
        first_bytes: BytesMut,
        activity: Arc<Activity>,
        header_deadline: Option<Duration>,
        write_deadline: Duration,
    ) -> Guarded {
        let headers = header_deadline.map(|deadline| HeaderClock {
            activity: Arc::clone(&activity),
            requests_begun: 0,
            countdown: Countdown::new(deadline),
        });
        Guarded { stream, first_bytes, activity, headers, writes: Countdown::new(write_deadline) }
    }

    fn watch_headers(&mut self, context: &mut Context<'_>, received: bool) -> io::Result<()> {
        self.headers.as_mut().map_or(Ok(()), |clock| clock.check(context, received))
    }

    fn watch_write<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.writes.stop();
            return progress;
        }
        self.writes.start();
        match self.writes.check(context, "the client takes none of its response") {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.first_bytes.is_empty() {
            let count = this.first_bytes.len().min(buffer.remaining());
            buffer.put_slice(&this.first_bytes[..count]);
            this.first_bytes.advance(count);
            return Poll::Ready(this.watch_headers(context, true));
        }
        let filled = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.watch_headers(context, buffer.filled().len() > filled)?;
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch_write(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch_write(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // Asked for once the protocol has written all it had.
        if let Poll::Ready(Ok(())) = flushed {
            self.activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Runs while a request's headers have begun and the request is not in work yet.
struct HeaderClock {
    activity: Arc<Activity>,
    /// As many as there were when the clock was last stopped.
    requests_begun: u64,
    countdown: Countdown,
}

impl HeaderClock {
    fn check(&mut self, context: &mut Context<'_>, received: bool) -> io::Result<()> {
        let begun = self.activity.requests_begun();
        if begun != self.requests_begun {
            self.requests_begun = begun;
            self.countdown.stop();
        }
        if !self.activity.is_idle() {
            return Ok(());
        }
        if received {
            self.countdown.start();
        }
        self.countdown.check(context, "the request's headers did not arrive in time")
    }
}

/// A deadline that is started, stopped, and looked at.
struct Countdown {
    duration: Duration,
    running: Option<Pin<Box<Sleep>>>,
}

impl Countdown {
    fn new(duration: Duration) -> Countdown {
        Countdown { duration, running: None }
    }

    /// Starts unless it runs already.
    fn start(&mut self) {
        let duration = self.duration;
        self.running.get_or_insert_with(|| Box::pin(tokio::time::sleep(duration)));
    }

    fn stop(&mut self) {
        self.running = None;
    }

    /// An error once it has run out; wakes the task then.
    fn check(&mut self, context: &mut Context<'_>, reason: &'static str) -> io::Result<()> {
        let Some(sleep) = &mut self.running else { return Ok(()) };
        match sleep.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, reason)),
            Poll::Pending => Ok(()),
        }
    }
}
