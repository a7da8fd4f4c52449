//! The process that tests of this crate have their operations run in, as the daemon has its own program.

fn main() -> std::process::ExitCode {
    pinfold_git::engine()
}
