"""Texts the tokenizer goldens are made from. Written for this purpose; no outside source."""

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "Hello world",
    " leading space",
    "trailing space ",
    "  two   three    four     spaces  ",
    "tabs\tand\t\ttabs",
    "line one\nline two\r\nline three\n\n\n\nline seven\n",
    " \n \t \n",
    "The quick brown fox jumps over the lazy dog. It didn't; they'll say it's what we've seen, I'd think.",
    "IT'S ALL CAPS AND THEY'LL SHOUT, WON'T THEY? I'M SURE WE'VE HEARD.",
    "CamelCaseAndsnake_case-and-kebab-case.and.dots/and/slashes",
    "numbers 0 1 12 123 1234 12345 123456 1234567890 3.14159 1,000,000 0x1F 1e-10 ½ ² Ⅷ ٣٤٥ १२३",
    "Price: $1,234.56 (≈ €1.100,00) — 50% off!!! #deal @shop & more...",
    "def main(argv):\n    for i, arg in enumerate(argv[1:]):\n        print(f\"{i}: {arg!r}\")\n    return 0\n",
    "fn add<T: Add<Output = T>>(a: T, b: T) -> T { a + b } // ==, !=, <=, >=, &&, ||, ::<>",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\": \"b\\n\"}}",
    "<html><body class=\"x\">text &amp; more</body></html>",
    "SELECT * FROM t WHERE a = 'it''s' AND b <> 3;",
    "Ça va très bien, merci. Où êtes-vous né ? L'été à Besançon coûte 20 €.",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň. Đường phố Hà Nội rất đẹp.",
    "Straße, Größe, Übermaß, naïve, coöperate, façade, ﬁne ﬂow ﬀ",
    "cafe\u0301 vs café; e\u0301\u0302 stacked; \u0301 lone mark; a\u0301\u0302\u0303\u0304\u0305 tower",
    "Ελληνικά: Καλημέρα κόσμε, τι κάνεις;",
    "Русский текст: Привет, как дела? Съешь ещё этих мягких булок.",
    "中文:你好,世界!今天天气很好。我们去公园吧。",
    "日本語:こんにちは、世界。カタカナとひらがなと漢字が混ざる文章です。ﾊﾝｶｸ",
    "한국어: 안녕하세요, 세계! 오늘 날씨가 좋습니다.",
    "العربية: مرحبا بالعالم، كيف حالك؟ اَلْعَرَبِيَّةُ",
    "עברית: שלום עולם, מה שלומך? שָׁלוֹם",
    "हिन्दी: नमस्ते दुनिया, आप कैसे हैं? क्षत्रिय विद्यार्थी",
    "বাংলা: আমি বাংলায় কথা বলি। தமிழ்: வணக்கம் உலகம். తెలుగు: నమస్కారం",
    "ไทย: สวัสดีชาวโลก วันนี้อากาศดีมาก ລາວ: ສະບາຍດີ မြန်မာ: မင်္ဂလာပါ ខ្មែរ: សួស្តី",
    "ქართული: გამარჯობა მსოფლიო. Հայերեն: Բարեւ աշխարհ. አማርኛ: ሰላም ልዑል",
    "emoji: 😀 👍🏽 👩‍🚀 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☕️ 1️⃣ ©™",
    "math: ∀x∈ℝ: x² ≥ 0, ∑_{i=1}^{n} i = n(n+1)/2, √2 ≈ 1.414, α≠β, 𝔸𝕓𝒄",
    "symbols ←↑→↓ ■□▲△ ♠♣♥♦ ☺ ✓✗ … – — ‘’ “” «» ‹› • · ° § ¶ † ‡",
    "zero\u200bwidth\u200cjoiners\u200d and\u00a0no-break\u202fspaces\u3000ideographic\u2003em\u2009thin",
    "bom\ufeffinside and \u00adsoft hyphen and \u2028line sep\u2029para",
    "control \u0001\u0002\u001f\u007f\u0080\u009f chars and nul \u0000 here",
    "\ufffd replacement \ue000 private \U000f0000 plane 15 \U0010fffd plane 16",
    "𐍈 gothic 𝄞 clef 🜁 alchemy 𠮷 cjk ext b 𞤀𞤣𞤤𞤢𞤥 adlam",
    "special names as text: <|im_start|>system<|im_end|> <|endoftext|> <s> </s> <unk> <pad>",
    "more: [CLS] [SEP] [MASK] [UNK] [PAD] [INST] [/INST] <|eot_id|> <bos> <eos> <start_of_turn> <0x0A> ▁ Ġ ##ing",
    "<|im_start|>",
    "</s>",
    "x</s>y<s>z",
    "a" * 150,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
    "https://example.org/path/to/page?query=1&other=two#fragment user@example.com C:\\Windows\\System32",
    "----==== **** //// \\\\\\\\ ____ .... ,,,, ;;;; !!!! ???? ((((())))) [[[]]] {{{}}}",
    "                                                                        deep indent",
    "a\n\n\nb\n \n  c\n   \n    d\t\n\t\te   \n",
    "I'Ll 'S 'sT can'ts o'clock 'tis rock'n'roll d'accord l'Été",
    "word1word2 3rd 4x4 v1.2.3-rc.4 2024-02-29T12:34:56Z +49 (0)30 1234-5678",
    "ǅ titlecase ʰ modifier ª º ordinal ﷽ ligature ㎏ ㈱ ⑩ ０１２ ＡＢＣ ａｂｃ",
    "MiXeD ÀÉÎ İstanbul ıssız ŒUVRE ẞ ǆ ΑΣ ΑΣ.",
    "ends with newline\n",
    "ends with spaces   ",
    "\n",
    "\n\n  \n",
]

# What the small vocabularies are trained on: the texts, and some running prose for merges to be found in.
PROSE = """
When the ferry left the island the wind had turned, and the captain said that they would not be back before the
evening. The children counted the birds that followed them: twelve, thirteen, fourteen. Nobody spoke of the letter.
In the morning the town had been quiet; the bakers were the only people in the streets, and the smell of the bread
went through the open windows of the houses near the harbour. There is nothing better than that, the old man said,
and he was right, although there are many things that are almost as good as the smell of bread in the morning.
The station master wrote the numbers of the trains in a long list: 7 to 12, 14, 16, 21 and 105. After that he wrote
the names of the villages, and after the names the times at which the trains would stop there and the times at which
they would leave. It was a good list. It has been lost since then, like the trains themselves and the villages.
Der Wind kam von Westen und brachte den Regen mit. Die Kinder liefen durch die Straßen und suchten den Hund.
Le vent venait de l'ouest et la pluie tombait sur les maisons. Les enfants couraient dans les rues du village.
El viento venía del oeste y la lluvia caía sobre las casas. Los niños corrían por las calles del pueblo.
for index in range(len(items)):
    if items[index] is not None:
        result.append(items[index])
    else:
        return result
"""


def training_lines():
    """Lines without NUL or private-use characters, which trainers reject or drop."""
    lines = [line for line in PROSE.strip().split("\n")] * 8
    for text in TEXTS:
        for line in text.split("\n"):
            if line.strip() and "\x00" not in line and not any(ord(c) >= 0xE000 and ord(c) <= 0xF8FF or ord(c) >= 0xF0000 for c in line):
                lines.append(line)
    return lines
