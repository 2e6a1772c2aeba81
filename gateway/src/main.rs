//! The `janus` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    gateway::cli::run()
}
