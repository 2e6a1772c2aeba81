//! How a server is asked to end: SIGTERM or Ctrl-C, once for an orderly end and twice for one at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// What a shell says of a process that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Listens from now on, on a thread of its own that lives as long as the process: whatever hangs, a second
/// signal ends it. The receiver resolves at the first.
///
/// # Errors
/// The system has no thread or no handler left.
pub fn stop_signal() -> io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? }
    };
    let (send, first) = oneshot::channel();
    let listen = move || {
        runtime.block_on(async {
            signals.next().await;
            let _ = send.send(());
            signals.next().await;
        });
        eprintln!("asked to end a second time: requests in work are cut off");
        std::process::exit(INTERRUPTED);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(first)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
