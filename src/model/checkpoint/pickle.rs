//! Pickles, read as data. Python's reader imports and calls whatever a pickle names; this one runs nothing:
//! names stay names, calls of the few constructors that files of tensors use become the values that these
//! construct, other harmless calls become [`Node::Opaque`], and any further call is refused by its name.
//!
//! Values lie in one list and refer to each other by their places there, so that no input makes the reader
//! recurse, and every value stands for at least one byte of the pickle.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};

/// Most bytes of a name in Python's modules. A pickle may put together one long text as a name as often as it
/// likes, and each is a copy.
const LONGEST_GLOBAL: usize = 512;

/// The place of a value in [`Pickle::nodes`].
pub type Id = usize;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// None, and numbers with a fraction.
    Plain,
    /// True or False.
    Bool(bool),
    /// A whole number; those of more than eight bytes are [`Node::Bytes`].
    Int(i64),
    /// A text, by its bytes in the pickle.
    Text(Range<usize>),
    /// Bytes, or a whole number of more than eight, by their place in the pickle.
    Bytes(Range<usize>),
    /// A tuple, a list or a set.
    List(Vec<Id>),
    /// A dictionary, in the order of the pickle.
    Dict(Vec<(Id, Id)>),
    /// A name of something in a Python module.
    Global(String),
    /// What a persistent id stands for: of tensors, their storage.
    Persistent(Id),
    /// A tensor: storage, first element, sizes, strides; the numbers may be any.
    Tensor { storage: Id, offset: Id, dims: Id, strides: Id },
    /// Something that is made by calling this name, and is of no interest.
    Opaque(Id),
    /// A tensor of a kind that is not read: the name of its type, or of what makes it.
    Unread(Id),
}

/// A pickle that was read.
pub struct Pickle<'b> {
    bytes: &'b [u8],
    nodes: Vec<Node>,
    /// The value that the pickle is.
    pub root: Id,
    /// Bytes up to its end.
    pub length: usize,
}

impl<'b> Pickle<'b> {
    /// Reads the pickle that `bytes` begin with; more may follow.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model): cut short, damaged, of another protocol, or with a call
    /// of what files of tensors have no use for.
    pub fn read(bytes: &'b [u8]) -> Result<Pickle<'b>> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        Ok(Pickle { bytes, nodes: machine.nodes, root, length: machine.at })
    }

    /// The value at a place.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// Number of values: their places are all below.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The bytes of a text, which may be no UTF-8; `None` for any other value.
    pub fn bytes_of_text(&self, id: Id) -> Option<&'b [u8]> {
        match self.node(id) {
            Node::Text(range) => Some(&self.bytes[range.clone()]),
            _ => None,
        }
    }

    /// A text; `None` for any other value.
    pub fn text(&self, id: Id) -> Option<&'b str> {
        std::str::from_utf8(self.bytes_of_text(id)?).ok()
    }

    /// A whole number from 0; `None` for any other value.
    pub fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The values of a tuple or list; `None` for any other value.
    pub fn list(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// A list of at most `most` whole numbers from 0.
    pub fn sizes(&self, id: Id, most: usize) -> Option<Vec<usize>> {
        let list = self.list(id).filter(|list| list.len() <= most)?;
        list.iter().map(|&id| self.size(id)).collect()
    }

    /// A name of something in a module; `None` for any other value.
    pub fn global(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// The last value of a key that is a text, in a dictionary.
    pub fn get(&self, id: Id, key: &str) -> Option<Id> {
        let Node::Dict(items) = self.node(id) else { return None };
        let is_key = |id: Id| self.bytes_of_text(id) == Some(key.as_bytes());
        items.iter().rev().find(|(k, _)| is_key(*k)).map(|(_, value)| *value)
    }
}

struct Machine<'b> {
    bytes: &'b [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

/// Modules whose classes say something about a training run, never about its tensors. Calls of them become
/// [`Node::Opaque`].
const HARMLESS: [&str; 11] = [
    "torch",
    "numpy",
    "collections",
    "argparse",
    "omegaconf",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "transformers",
    "datetime",
    "pathlib",
];

/// Single names of the same kind.
const HARMLESS_NAMES: [&str; 12] = [
    "_codecs.encode",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "builtins.set",
    "builtins.frozenset",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.slice",
    "builtins.object",
    "__builtin__.set",
    "__builtin__.object",
    "typing.Any",
];

/// A class whose objects are dictionaries of tensors.
const PARAMETERS: &str = "torch.nn.modules.container.ParameterDict";

impl Machine<'_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let at = self.at;
            let [op] = *self.take(1)? else { return Err(cut_short()) };
            match op {
                // PROTO: the version; FRAME: how much follows.
                0x80 => {
                    let version = self.number(1)?;
                    if version > 5 {
                        let what = format!("a pickle of protocol {version}; 1 to 5 are known");
                        return Err(Error::model(what).advice(AGAIN));
                    }
                }
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'.' => return self.pop(),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.marked()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' => self.push(Node::Plain),
                0x88 | 0x89 => self.push(Node::Bool(op == 0x88)),
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Plain);
                }
                b'F' => {
                    self.line()?;
                    self.push(Node::Plain);
                }
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => {
                    let value = self.number(4)? as u32 as i32;
                    self.push(Node::Int(value.into()));
                }
                b'I' | b'L' => {
                    let range = self.line()?;
                    let text = std::str::from_utf8(&self.bytes[range]).map_err(|_| damaged(at))?;
                    // Protocol 0 writes True and False as 01 and 00.
                    let value = text.trim_end_matches('L').parse().map_err(|_| damaged(at))?;
                    self.push(Node::Int(value));
                }
                0x8a => {
                    let length = self.number(1)?;
                    self.long(length)?;
                }
                0x8b => {
                    let length = self.number(4)?;
                    self.long(length)?;
                }
                b'X' => self.string(4, Node::Text)?,
                0x8c => self.string(1, Node::Text)?,
                0x8d => self.string(8, Node::Text)?,
                // Python 2's strings are texts in the files that there are.
                b'U' => self.string(1, Node::Text)?,
                b'T' => self.string(4, Node::Text)?,
                b'C' => self.string(1, Node::Bytes)?,
                b'B' => self.string(4, Node::Bytes)?,
                0x8e | 0x96 => self.string(8, Node::Bytes)?,
                b'}' => self.push(Node::Dict(Vec::new())),
                b']' | b')' | 0x8f => self.push(Node::List(Vec::new())),
                b'l' | b't' | 0x91 => {
                    let items = self.marked()?;
                    self.push(Node::List(items));
                }
                b'd' => {
                    let items = pairs(&self.marked()?).ok_or_else(|| damaged(at))?;
                    self.push(Node::Dict(items));
                }
                0x85..=0x87 => {
                    let items = self.several(usize::from(op - 0x84))?;
                    self.push(Node::List(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.marked()?;
                    self.append(items)?;
                }
                b's' => {
                    let items = self.several(2)?;
                    self.insert(&items)?;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.insert(&items)?;
                }
                b'q' => self.remember(1)?,
                b'r' => self.remember(4)?,
                0x94 => {
                    let top = self.top()?;
                    self.memo.insert(self.memo.len(), top);
                }
                b'h' => self.recall(1)?,
                b'j' => self.recall(4)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name, at)?;
                }
                0x93 => {
                    let names = self.several(2)?;
                    let [Node::Text(module), Node::Text(name)] = [0, 1].map(|i| self.nodes[names[i]].clone())
                    else {
                        return Err(damaged(at));
                    };
                    self.global(module, name, at)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id));
                }
                // REDUCE: a call.
                b'R' => {
                    let parts = self.several(2)?;
                    self.call(parts[0], parts[1])?;
                }
                // NEWOBJ, NEWOBJ_EX: an object of a class.
                0x81 => {
                    let parts = self.several(2)?;
                    self.object(parts[0]);
                }
                0x92 => {
                    let parts = self.several(3)?;
                    self.object(parts[0]);
                }
                // BUILD: the state of an object.
                b'b' => {
                    let state = self.pop()?;
                    self.build(state)?;
                }
                b'p' | b'g' | b'V' | b'S' | b'P' | b'i' => {
                    return Err(Error::model("a pickle of protocol 0; 1 to 5 are read")
                        .advice("save it again without pickle_protocol=0, or as .safetensors"));
                }
                _ => {
                    let what = format!("byte {op:#04x} at {at} of a pickle, which no file of tensors has");
                    return Err(Error::model(what).advice(AGAIN));
                }
            }
        }
    }

    /// What a call makes.
    fn call(&mut self, function: Id, with: Id) -> Result<()> {
        let (Node::Global(name), Node::List(arguments)) = (&self.nodes[function], &self.nodes[with]) else {
            let Node::Opaque(_) = self.nodes[function] else { return Err(damaged(self.at)) };
            self.push(Node::Opaque(function));
            return Ok(());
        };
        let made = match (name.as_str(), arguments.as_slice()) {
            (
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
                &[storage, offset, ref dims, ref strides, ..],
            ) => Node::Tensor { storage, offset, dims: *dims, strides: *strides },
            (
                "torch._utils._rebuild_parameter"
                | "torch._utils._rebuild_parameter_with_state"
                | "torch.Size",
                &[itself, ..],
            ) => {
                self.stack.push(itself);
                return Ok(());
            }
            // A tensor with attributes of Python's: what makes it, its class, and what it is made of.
            ("torch._tensor._rebuild_from_type_v2", &[function, _, with, ..])
                if self.nodes[function] != Node::Global(name.clone()) =>
            {
                return self.call(function, with);
            }
            ("torch._utils._rebuild_tensor_v3", &[_, _, _, _, _, _, dtype, ..]) => Node::Unread(dtype),
            (name, _) if makes_a_tensor(name) => Node::Unread(function),
            ("collections.OrderedDict", &[]) | ("collections.defaultdict", _) => Node::Dict(Vec::new()),
            ("collections.OrderedDict", &[items]) => return self.ordered(items),
            (name, _) if is_harmless(name) => Node::Opaque(function),
            (name, _) => {
                let what = format!("pickled data that calls {name}, for which weights have no use");
                return Err(Error::model(what).advice(
                    "nothing of it was run; do not open it with another program, and take another copy, as \
                     .safetensors",
                ));
            }
        };
        self.push(made);
        Ok(())
    }

    /// An object of a class, as one that pickles itself by its parts writes it. Ordered dictionaries do.
    fn object(&mut self, class: Id) {
        self.push(match &self.nodes[class] {
            Node::Global(name) if name == "collections.OrderedDict" => Node::Dict(Vec::new()),
            _ => Node::Opaque(class),
        });
    }

    /// Gives the object on top its state. A dictionary of parameters takes these with it; other states, such
    /// as an ordered dictionary has, are of no interest.
    fn build(&mut self, state: Id) -> Result<()> {
        let object = self.top()?;
        let Node::Opaque(class) = self.nodes[object] else { return Ok(()) };
        let Node::Dict(entries) = &self.nodes[state] else { return Ok(()) };
        let is_key = |id: Id| match &self.nodes[id] {
            Node::Text(text) => &self.bytes[text.clone()] == b"_parameters",
            _ => false,
        };
        let parameters = entries.iter().rev().find(|(key, _)| is_key(*key)).map(|(_, value)| *value);
        if self.nodes[class] == Node::Global(PARAMETERS.into())
            && let Some(parameters) = parameters
            && let Node::Dict(items) = &mut self.nodes[parameters]
        {
            self.nodes[object] = Node::Dict(std::mem::take(items));
        }
        Ok(())
    }

    /// An ordered dictionary of a dictionary, or of a list of pairs, which it takes with it: as much as a
    /// pickle says once is kept once.
    fn ordered(&mut self, items: Id) -> Result<()> {
        let Node::List(list) = &mut self.nodes[items] else {
            self.stack.push(items);
            return Ok(());
        };
        let list = std::mem::take(list);
        let pair = |item: &Id| match self.nodes[*item] {
            Node::List(ref pair) => {
                <[Id; 2]>::try_from(pair.as_slice()).ok().map(|[key, value]| (key, value))
            }
            _ => None,
        };
        let items = list.iter().map(pair).collect::<Option<_>>().ok_or_else(|| damaged(self.at))?;
        self.push(Node::Dict(items));
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    /// Where the values of the current mark begin.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(id) if self.stack.len() > self.floor() => Ok(*id),
            _ => Err(damaged(self.at)),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The last `count` values, in their order.
    fn several(&mut self, count: usize) -> Result<Vec<Id>> {
        match self.stack.len().checked_sub(count) {
            Some(from) if from >= self.floor() => Ok(self.stack.split_off(from)),
            _ => Err(damaged(self.at)),
        }
    }

    /// The values since the last mark, which goes away.
    fn marked(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| damaged(self.at))?;
        Ok(self.stack.split_off(mark))
    }

    /// Adds values to the list on top; what is no list keeps nothing.
    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        if let Node::List(list) = &mut self.nodes[top] {
            list.extend(items);
        }
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> Result<()> {
        let new = pairs(items).ok_or_else(|| damaged(self.at))?;
        let top = self.top()?;
        if let Node::Dict(dict) = &mut self.nodes[top] {
            dict.extend(new);
        }
        Ok(())
    }

    fn remember(&mut self, width: usize) -> Result<()> {
        let (place, top) = (self.number(width)?, self.top()?);
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Result<()> {
        let place = self.number(width)?;
        let id = *self.memo.get(&place).ok_or_else(|| damaged(self.at))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: Range<usize>, name: Range<usize>, at: usize) -> Result<()> {
        if module.len() + name.len() > LONGEST_GLOBAL {
            return Err(damaged(at));
        }
        let text = |range: Range<usize>| std::str::from_utf8(&self.bytes[range]).map_err(|_| damaged(at));
        let full = format!("{}.{}", text(module)?, text(name)?);
        self.push(Node::Global(full));
        Ok(())
    }

    fn int(&mut self, width: usize) -> Result<()> {
        let value = self.number(width)?;
        self.push(Node::Int(value as i64));
        Ok(())
    }

    /// A whole number of `length` bytes.
    fn long(&mut self, length: usize) -> Result<()> {
        let from = self.at;
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let node = match wide.get_mut(..length) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(wide))
            }
            None => Node::Bytes(from..from + length),
        };
        self.push(node);
        Ok(())
    }

    fn string(&mut self, width: usize, kind: fn(Range<usize>) -> Node) -> Result<()> {
        let length = self.number(width)?;
        let from = self.at;
        self.take(length)?;
        self.push(kind(from..self.at));
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(length).ok_or_else(cut_short)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(cut_short)?;
        self.at = end;
        Ok(bytes)
    }

    /// An unsigned number of `width` bytes, low byte first.
    fn number(&mut self, width: usize) -> Result<usize> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| cut_short())
    }

    /// What stands before the next end of line.
    fn line(&mut self) -> Result<Range<usize>> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or_else(cut_short)?;
        let from = self.at;
        self.at += length + 1;
        Ok(from..from + length)
    }
}

/// Whether calling `name` says nothing about tensors.
fn is_harmless(name: &str) -> bool {
    let module = name.split('.').next().unwrap_or("");
    HARMLESS.contains(&module) || HARMLESS_NAMES.contains(&name)
}

/// Whether calling `name` makes a tensor or an array.
fn makes_a_tensor(name: &str) -> bool {
    let function = name.rsplit('.').next().unwrap_or_default();
    name.starts_with("torch.") && function.starts_with("_rebuild")
        || name.starts_with("numpy.") && matches!(function, "_reconstruct" | "_frombuffer")
}

fn pairs(items: &[Id]) -> Option<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks();
    rest.is_empty().then(|| pairs.iter().map(|&[key, value]| (key, value)).collect())
}

const AGAIN: &str = "download the file again, or take its .safetensors";

fn cut_short() -> Error {
    Error::model("a pickle that is cut short").advice(AGAIN)
}

fn damaged(at: usize) -> Error {
    Error::model(format!("a damaged pickle, at byte {at}")).advice(AGAIN)
}
