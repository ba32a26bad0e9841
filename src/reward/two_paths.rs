//! A PATH that names two: `FIRST,SECOND`.

use std::path::Path;

/// Two paths parted by a comma, unless there is one that has the comma in its name.
pub(crate) fn two_paths(path: &Path) -> Option<(&Path, &Path)> {
    let (first, second) = path.to_str().filter(|_| !path.exists())?.rsplit_once(',')?;
    Some((Path::new(first), Path::new(second)))
}
