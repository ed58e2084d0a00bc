//! How we write YAML: one set of options for every file.
//!
//! serde-saphyr quotes what YAML 1.1 readers (kubectl among them) would take for something else: `yes`, `on`, `0644`,
//! dates.

use serde::Serialize;

/// A value as one YAML document, with a line break at its end.
///
/// # Errors
/// A value that YAML cannot hold, in words.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: true, folded_wrap_chars: usize::MAX };
    let mut text = String::new();
    serde_saphyr::to_fmt_writer_with_options(&mut text, value, options).map_err(|error| error.to_string())?;
    Ok(text)
}
