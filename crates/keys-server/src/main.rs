//! The API-key service: one binary, on embedded SQLite or on PostgreSQL.

mod arguments;
mod commands;
mod config;
mod connections;
mod embedded;
mod listen;
mod open;
mod output;
mod peppers;
mod private;
mod secret;
mod serve;
mod stop;
mod telemetry;
mod unix_socket;
mod welcome;
mod workers;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::config::Settings;

/// Requests need many small allocations, for which the system's allocator is slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    private::turn_core_dumps_off();
    let arguments = Arguments::parse();
    let code = match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain on one line, because a cause without its context explains little.
            telemetry::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    };
    telemetry::finish();
    code
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let command = match arguments.command {
        Some(Command::Completions { shell }) => {
            commands::completions(shell);
            return Ok(());
        }
        Some(command) => command,
        None => Command::Serve,
    };
    let settings = Settings::load(arguments.config.as_deref())?;
    let telemetry = telemetry::start(&settings.log)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    // This runtime owns the connections to the database. Each thread that answers requests has a
    // runtime of its own, and a connection opened there would end with it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("keys")
        .build()?;
    let result = match command {
        Command::Serve => {
            let reload = serve::Reload {
                settings: arguments.config,
                telemetry,
            };
            serve::run(&runtime, &settings, &reload)
        }
        command => runtime.block_on(commands::run(command, &settings)),
    };
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    result
}
