//! The HTML of a page, read as strictly as what makes it can be held to: every tag is closed where it should
//! be, every attribute is quoted.

/// A tag with its attributes, as a browser has them, and the names of those around it.
#[derive(Debug)]
pub struct Tag {
    pub name: String,
    pub attributes: Vec<(String, String)>,
}

/// A page taken apart.
#[derive(Debug, Default)]
pub struct Html {
    pub tags: Vec<Tag>,
    /// What is between the tags, but for styles.
    pub text: String,
    /// The content of each script.
    pub scripts: Vec<String>,
}

/// Elements without an end.
const VOID: [&str; 4] = ["br", "img", "meta", "!DOCTYPE"];
/// Elements whose content is no HTML.
const RAW: [&str; 2] = ["script", "style"];

impl Tag {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Html {
    /// Reads a page.
    ///
    /// # Errors
    /// Where it is not well formed.
    pub fn read(page: &str) -> Result<Html, String> {
        let (mut html, mut open, mut rest) = (Html::default(), Vec::<String>::new(), page);
        while let Some(at) = rest.find('<') {
            html.text += &plain(&rest[..at])?;
            let end =
                tag_end(&rest[at..]).ok_or_else(|| format!("a tag without an end: {:.60}", &rest[at..]))?;
            let inner = &rest[at + 1..at + end];
            rest = &rest[at + end + 1..];
            if let Some(name) = inner.strip_prefix('/') {
                match open.pop() {
                    Some(last) if last == name => {}
                    last => return Err(format!("</{name}> ends {last:?}")),
                }
                continue;
            }
            let tag = tag(inner)?;
            if RAW.contains(&tag.name.as_str()) {
                let close = format!("</{}>", tag.name);
                let length = rest.find(&close).ok_or_else(|| format!("{close} is missing"))?;
                if tag.name == "script" {
                    html.scripts.push(rest[..length].to_string());
                }
                rest = &rest[length + close.len()..];
            } else if !VOID.contains(&tag.name.as_str()) {
                open.push(tag.name.clone());
            }
            html.tags.push(tag);
        }
        html.text += &plain(rest)?;
        if open.is_empty() { Ok(html) } else { Err(format!("never closed: {open:?}")) }
    }

    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Tag> {
        self.tags.iter().filter(move |tag| tag.name == name)
    }
}

/// Where a tag ends; what is quoted in it does not.
fn tag_end(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(at, c)| {
        quoted ^= c == '"';
        (c == '>' && !quoted).then_some(at)
    })
}

fn tag(inner: &str) -> Result<Tag, String> {
    let (name, mut rest) = inner.split_once(' ').unwrap_or((inner, ""));
    let mut attributes = Vec::new();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let (attribute, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix("=\"") {
            Some(quoted) => quoted.split_once('"').ok_or_else(|| format!("{attribute}: no closing quote"))?,
            None if after.starts_with('=') => return Err(format!("{attribute} is not quoted")),
            None => ("", after),
        };
        attributes.push((attribute.to_string(), plain(value)?));
        rest = after.trim_start();
    }
    Ok(Tag { name: name.to_string(), attributes })
}

/// A text without its escapes.
fn plain(text: &str) -> Result<String, String> {
    if let Some(at) = text.find('<') {
        return Err(format!("a bare <: {:.60}", &text[at..]));
    }
    let whole = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\"")]
        .iter()
        .fold(text.to_string(), |text, (escape, character)| text.replace(escape, character));
    let bare = whole.replace("&amp;", "");
    match bare.find('&') {
        Some(at) => Err(format!("a bare &: {:.60}", &bare[at..])),
        None => Ok(whole.replace("&amp;", "&")),
    }
}
