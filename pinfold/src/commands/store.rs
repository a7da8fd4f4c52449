//! `pinfold backup` and `pinfold restore`: the control plane's database as one file. They work on the data directory, not through the API, so that
//! a copy can be made of what does not start.

use std::path::Path;

use pinfold_control::BackupError;

use crate::exit::Failure;
use crate::table::print_line;

/// Copies the database into `file`.
pub(crate) async fn backup(file: &Path, force: bool) -> Result<(), Failure> {
    pinfold_control::backup(&crate::data_dir(), file, force).await.map_err(failure)?;
    print_line(&file.display().to_string());
    Ok(())
}

/// Makes `file` the database.
pub(crate) async fn restore(file: &Path, force: bool) -> Result<(), Failure> {
    let data_dir = crate::data_dir();
    pinfold_control::restore(&data_dir, file, force).await.map_err(failure)?;
    print_line(&data_dir.display().to_string());
    Ok(())
}

fn failure(error: BackupError) -> Failure {
    Failure::of_class(error.exit_status(), error)
}
