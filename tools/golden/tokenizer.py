"""Writes tests/golden/tokenizer: a small CLIP vocabulary and what transformers' CLIPTokenizer makes of hard texts.

    python tools/golden/tokenizer.py

The vocabulary is laid out as CLIP's own: the 256 bytes, the same with the end-of-word mark, merges, specials.
Its merges are counted from the texts below, ties broken by spelling, so that the files are the same every time.
"""

import collections
import json
import pathlib
import random
import tempfile

from transformers import CLIPTokenizer

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizer"
MERGES = 300

CORPUS = """
a photo of a cat, a photo of a dog, a painting of a fox in the snow, highly detailed, sharp focus
an astronaut riding a horse on the moon, cinematic lighting, dramatic clouds, volumetric fog
the quick brown fox jumps over the lazy dog while the photographer's assistant isn't looking
portrait of an old fisherman, oil on canvas, soft light, by the sea, trending on nothing at all
a watercolor of a mountain lake at dawn, reflections, mist, pine trees, birds in the distance
they're here, we've seen it, i'm sure she'll say he'd go, don't, it's a cat's toy
isometric render of a tiny house with a red roof, octane, unreal, 8k, studio lighting
café crème, naïve façade, über straße, señor, smörgåsbord, crème brûlée, el niño
猫の写真 白い猫 赤い花 山と川 москва красивый кот снег зима
""".strip().splitlines()


def byte_names():
    """The printable stand-in of every byte, in the order in which CLIP numbers them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {b: chr(b) for b in printable}
    for b in range(256):
        if b not in names:
            names[b] = chr(256 + len(names) - len(printable))
    return names


def train(names):
    counts = collections.Counter()
    for line in CORPUS:
        for word in line.lower().replace(",", " ").split():
            letters = [names[b] for b in word.encode()]
            counts[(*letters[:-1], letters[-1] + "</w>")] += 1
    words = {word: n for word, n in sorted(counts.items())}
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = {}
        for word, n in words.items():
            new, at = [], 0
            while at < len(word):
                if word[at : at + 2] == best:
                    new.append("".join(best))
                    at += 2
                else:
                    new.append(word[at])
                    at += 1
            merged[tuple(new)] = merged.get(tuple(new), 0) + n
        words = merged
    return merges


def token(content, normalized, **more):
    return dict(content=content, lstrip=False, normalized=normalized, rstrip=False, single_word=False, **more)


def groups(last):
    """Configurations as they are found in the folders of models; `last` is the id of the end token."""
    typed = dict(__type="AddedToken")
    base = dict(tokenizer_class="CLIPTokenizer", model_max_length=77)
    start, end = "<|startoftext|>", "<|endoftext|>"
    declared = {str(last - 1): token(start, True, special=True), str(last): token(end, True, special=True)}
    return {
        "sd1": {
            "tokenizer_config.json": dict(
                base,
                bos_token=token(start, True, **typed),
                eos_token=token(end, True, **typed),
                unk_token=token(end, True, **typed),
                pad_token=end,
            ),
            "special_tokens_map.json": dict(
                bos_token=token(start, True), eos_token=token(end, True), unk_token=token(end, True), pad_token=end
            ),
        },
        "sd2": {
            "tokenizer_config.json": dict(base, bos_token=token(start, True, **typed), pad_token=end),
            "special_tokens_map.json": dict(bos_token=token(start, True), pad_token="!"),
        },
        "xl2": {
            "tokenizer_config.json": dict(
                base,
                added_tokens_decoder={"0": token("!", False, special=True), **declared},
                bos_token=start,
                eos_token=end,
                unk_token=end,
                pad_token="!",
            ),
        },
        "inversion": {
            "tokenizer_config.json": dict(
                base,
                added_tokens_decoder={
                    **declared,
                    str(last + 1): token("<Cat-Toy>", False, special=False),
                    str(last + 2): token("<Dog Toy>", True, special=False),
                    str(last + 3): token("<Cat-Toy>s", False, special=False),
                },
                bos_token=start,
                eos_token=end,
                unk_token=end,
                pad_token=end,
            ),
        },
        # As tools of before 2023 write it: the added tokens in a file of their own, the special ones in
        # another.
        "older": {
            "tokenizer_config.json": dict(base, bos_token=token(start, True, **typed), unk_token=end),
            "added_tokens.json": {"<Cat-Toy>s": last + 3, "<Cat-Toy>": last + 1, "<Dog Toy>": last + 2},
            "special_tokens_map.json": dict(
                bos_token=token(start, True), eos_token=end, unk_token=end, pad_token="!",
                additional_special_tokens=["<Dog Toy>", "<New>"],
            ),
        },
        # Ids that leave gaps, tokens with a role only, and further ones; special tokens cut like any text.
        "numbered": {
            "tokenizer_config.json": dict(
                base,
                added_tokens_decoder={
                    str(last + 9): token("<Cat-Toy>", False, special=False),
                    str(last + 4): token("<Dog Toy>", True, special=False),
                },
                additional_special_tokens=["the cat"],
                mask_token="<Mask>",
                image_token="photo",
                pad_token="[PAD]",
                split_special_tokens=True,
            ),
        },
        "bare": {},
    }


def texts():
    rng = random.Random(20)
    hard = [
        "",
        " ",
        "\n\t  \r\n",
        "a",
        "A photo of a CAT, highly detailed!!",
        "a  photo\tof\u00a0a\u2003cat\u3000here\u0085there\u2028x\u200by\ufeffz",
        "they're we've I'M she'll HE'D don't it's 'tis ''s 's's '",
        "l'été, rock'n'roll, o'clock's, '''re",
        "1234567890 8k 4K 3.14 2nd x2 1,000 ½ ² Ⅻ ٣ 五",
        "!!! ??? ... --- *** (((masterpiece))) [a|b] {c:1.2} <lora:x:0.5> a_b-c/d\\e",
        "\"quoted\" “curly” ‘single’ don’t — en–dash … ellipsis",
        "café CAFÉ cafe\u0301 CAFE\u0301 naïve ÅNGSTRÖM A\u030angstro\u0308m",
        "Straße STRASSE İstanbul ISTANBUL ıI ΣΊΣΥΦΟΣ ΌΣΟΣ ǅ ﬁn ﬂow Å",
        "猫の写真 白い猫、赤い花。「山」 한국어 텍스트 ㅎㅏㄴ ｱｲｳ Ｆｕｌｌ ｗｉｄｔｈ",
        "Красивый КОТ на снегу, зима",
        "हिन्दी ไทย ภาษา العربية שָׁלוֹם தமிழ்",
        "😀 🎉🎉 👩\u200d👩\u200d👧\u200d👦 👍🏽 🇩🇪 ❤️ ☃ a😀b",
        "𝕳𝖊𝖑𝖑𝖔 𠮷野家 \U0001f9ff\U000e0061",
        "\u0000 a\u0000b \u0001\u001b[31mred\u007f \u0080 \u00ad \u200e \ufffd \ue000",
        "a\u0301\u0302\u0303 e\u0327\u0301 \u0301x q\u0307\u0323 q\u0323\u0307",
        "<|startoftext|> a <|endoftext|> b",
        "x<|endoftext|>y<|ENDOFTEXT|>z <|StartOfText|>w",
        "!<|startoftext|>! !<|ENDOFTEXT|>! <|endoftext|",
        "<Cat-Toy> <cat-toy> <Cat-Toy>s <Cat-Toy>x a<Dog Toy>b <dog   toy> <DOG\nTOY>s",
        "the cat! wow!!! !a! no! ! !",
        "thethethethe photophotophoto aaaaaaaaaaaaaaaaaaaaaaaa lightinglighting",
        "supercalifragilisticexpialidocious antidisestablishmentarianism",
        "a" * 5000,
        "the photo " * 500,
        "".join(rng.choice("abcdefghijklmnopqrstuvwxyz ,.'0") for _ in range(5000)),
        "".join(rng.choice("猫の写真白い赤花山川 ") for _ in range(5000)),
        "".join(chr(rng.randrange(0x20, 0x7F)) for _ in range(400)),
        "".join(chr(rng.randrange(0xA0, 0x530)) for _ in range(400)),
        "a cat " * 37 + "x",
        "a cat " * 37 + "x y",
    ]
    words = " ".join(CORPUS).split()
    return hard + [" ".join(rng.choice(words) for _ in range(rng.randrange(2, 40))) for _ in range(6)]


def reopened(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            pathlib.Path(folder, name).write_text(text, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def cases(tokenizer):
    result = []
    for text in texts():
        padded = tokenizer(text, padding="max_length", truncation=True, max_length=77).input_ids
        total = len(tokenizer(text).input_ids)
        used = min(total, 77)
        # Padding is one id, so only what comes before it is written.
        assert padded[used:] == [tokenizer.pad_token_id] * (77 - used)
        result.append(dict(total=total, ids=padded[:used]))
    return result


def main():
    names = byte_names()
    merges = train(names)
    vocab = [*names.values(), *(name + "</w>" for name in names.values()), *("".join(m) for m in merges)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(vocab)) == len(vocab)
    files = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(vocab)}, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
    }
    OUT.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (OUT / name).write_text(text, encoding="utf-8")
    result = []
    for group, configs in groups(len(vocab) - 1).items():
        tokenizer = reopened({**files, **{name: json.dumps(config) for name, config in configs.items()}})
        result.append(dict(name=group, files=configs, pad=tokenizer.pad_token_id, cases=cases(tokenizer)))
        if group in ("sd2", "inversion"):
            # What a present transformers writes: one tokenizer.json instead of the pair.
            with tempfile.TemporaryDirectory() as folder:
                tokenizer.save_pretrained(folder)
                saved = {path.name: path.read_text(encoding="utf-8") for path in pathlib.Path(folder).iterdir()}
            assert sorted(saved) == ["tokenizer.json", "tokenizer_config.json"]
            again = reopened(saved)
            configs = {name: json.loads(text) for name, text in saved.items()}
            result.append(dict(name=group + " saved", files=configs, pad=again.pad_token_id, cases=cases(again)))
    document = dict(texts=texts(), groups=result)
    (OUT / "cases.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    print(f"{sum(len(g['cases']) for g in result)} cases, {(OUT / 'cases.json').stat().st_size} bytes")


if __name__ == "__main__":
    main()
