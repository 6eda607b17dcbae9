// What the playground says, in English and Chinese.

import { remembered } from "./dom.js";

export const LANGUAGES = { en: "English", zh: "中文" };

export const WORDS = {
  en: {
    tagline: "look inside a language model",
    facts: "{parameters} parameters · {layers} layers × {heads} heads · context {context} · {kind}, {vocabulary} tokens",
    char: "characters", byte: "bytes", bpe: "BPE", other: "tokens",
    model: "Model", runs: "Runs", language: "Language", theme: "Theme", auto: "System theme", light: "Light", dark: "Dark",
    key: "This server asks for its API key", open: "Open",
    prompt: "Prompt", placeholder: "How does the text begin?",
    write: "Write", step: "One token", stop: "Stop", undo: "Undo", keys: "Keys",
    text: "Text {name}", fromPrompt: "from the prompt", fromBranch: "branch of {name} at “{token}”", sample: "sample {number}, seed {seed}",
    close: "Close text {name}", measure: "{nats} nats/token",
    legend: "How surprising each token was:", expected: "expected", surprising: "surprising",
    selectHint: "Point at a token to see what else the model thought of; choose another to branch from there.",
    next: "What comes next?", instead: "What could stand here?",
    first: "The first token has nothing before it.",
    candidateLabel: "{token}: model {model}, before settings {plain}, training text {text}",
    colToken: "token", colModel: "model", colText: "in the text", colNgram: "n-grams",
    tipModel: "Probability with the settings below; the outline is the model's own, at temperature 1",
    tipText: "How often it follows the same context in the training text",
    tipNgram: "What a table of counts of up to 7 tokens would say",
    taken: "taken",
    keyModel: "model, with settings", keyPlain: "model alone", keyText: "training text",
    others: "{count} others share {share}",
    evidence: "In the training text", counting: "Counting…",
    stands: "“{context}” stands there {times}.",
    standsShort: "Not in full; its longest end there is “{context}”: {times}.",
    standsNone: "Nothing of this context stands in the training text.",
    word: "“{word}” as a whole word: {times}; {all} with the text held back for validation.",
    times: "{count} times", once: "once", ends: "How much of the context is counted", longest: "longest",
    missing: "No counts: {reason}", noText: "No counts: the training text is not here.",
    settings: "Settings", reset: "Reset",
    temperature: "Temperature", temperatureHelp: "below 1 the likely become likelier; 0 is always the likeliest",
    top_k: "Top k", top_kHelp: "only the k likeliest tokens", all: "all",
    top_p: "Top p", top_pHelp: "the fewest likeliest tokens that have p together",
    min_p: "Min p", min_pHelp: "no token below this share of the likeliest",
    length: "Tokens to write", seed: "Seed", samples: "Texts side by side",
    attention: "Attention", attentionOpen: "Where each head looks",
    attentionNote: "Each row is a token, each column what it looks back at. {note}",
    newest: "Shown are {count} tokens, looked at without what stands before them.",
    layer: "Layer {layer}", head: "head {head}", mean: "all heads, mean", layerHead: "Layer {layer}, head {head}",
    looks: "“{token}” looks at",
    help: "Ctrl+Enter writes, Esc stops, Ctrl+Z in the text takes back. In a text: ← → move, Home and End jump, Enter goes to the candidates; there ↑ ↓ move, Enter chooses, Esc goes back.",
    privacy: "Nothing you type leaves this server.",
    error: "Error: {message}",
  },
  zh: {
    tagline: "看进语言模型里面",
    facts: "{parameters} 个参数 · {layers} 层 × {heads} 个注意力头 · 上下文 {context} · {kind}，词表 {vocabulary}",
    char: "按字符", byte: "按字节", bpe: "BPE", other: "词元",
    model: "模型", runs: "训练记录", language: "语言", theme: "主题", auto: "跟随系统", light: "浅色", dark: "深色",
    key: "此服务器需要 API 密钥", open: "打开",
    prompt: "提示", placeholder: "文本从哪里开始？",
    write: "续写", step: "写一个词元", stop: "停止", undo: "撤销", keys: "快捷键",
    text: "文本 {name}", fromPrompt: "从提示开始", fromBranch: "由 {name} 在“{token}”处分出", sample: "样本 {number}，种子 {seed}",
    close: "关闭文本 {name}", measure: "{nats} 纳特/词元",
    legend: "每个词元有多出人意料：", expected: "意料之中", surprising: "出人意料",
    selectHint: "指向一个词元，看模型还想过什么；选另一个，就从那里分出新的文本。",
    next: "接下来是什么？", instead: "这里本可以是什么？",
    first: "第一个词元之前什么也没有。",
    candidateLabel: "{token}：模型 {model}，调整前 {plain}，训练文本 {text}",
    colToken: "词元", colModel: "模型", colText: "文本中", colNgram: "n 元",
    tipModel: "按下方设置得到的概率；细线框是模型本身的概率（温度 1）",
    tipText: "训练文本里同样的上下文之后，它出现了多少次",
    tipNgram: "一张最多数 7 个词元的计数表会怎么说",
    taken: "已选",
    keyModel: "模型（按设置）", keyPlain: "模型本身", keyText: "训练文本",
    others: "其余 {count} 个共占 {share}",
    evidence: "训练文本里", counting: "正在计数…",
    stands: "“{context}”在其中出现 {times}。",
    standsShort: "整段没有出现过；其中最长的结尾“{context}”出现 {times}。",
    standsNone: "这段上下文在训练文本里从未出现。",
    word: "“{word}”作为完整单词：{times}，连同留作验证的文本共 {all}。",
    times: "{count} 次", once: "1 次", ends: "统计上下文的多长一段", longest: "最长",
    missing: "没有计数：{reason}", noText: "没有计数：训练文本不在这里。",
    settings: "设置", reset: "恢复默认",
    temperature: "温度", temperatureHelp: "小于 1 时，可能的更可能；0 总取最可能的",
    top_k: "Top k", top_kHelp: "只在最可能的 k 个词元里选", all: "全部",
    top_p: "Top p", top_pHelp: "只在概率合计达到 p 的最少几个词元里选",
    min_p: "Min p", min_pHelp: "概率低于最可能者这一比例的不选",
    length: "续写词元数", seed: "种子", samples: "并排文本数",
    attention: "注意力", attentionOpen: "每个头在看哪里",
    attentionNote: "每一行是一个词元，每一列是它回看的词元。{note}",
    newest: "只显示 {count} 个词元，不看它们之前的内容。",
    layer: "第 {layer} 层", head: "头 {head}", mean: "所有头的平均", layerHead: "第 {layer} 层，头 {head}",
    looks: "“{token}”在看",
    help: "Ctrl+Enter 续写，Esc 停止，在文本里按 Ctrl+Z 撤销。在文本里：← → 移动，Home 和 End 跳到首尾，Enter 进入候选；在候选里：↑ ↓ 移动，Enter 选定，Esc 返回。",
    privacy: "你输入的内容不会离开这台服务器。",
    error: "出错：{message}",
  },
};

// The language that was chosen here before, else the browser's, else English.
export function language() {
  const chosen = remembered("language");
  if (chosen in WORDS) return chosen;
  return (navigator.languages || []).some((name) => name.startsWith("zh")) &&
    !(navigator.language || "").startsWith("en") ? "zh" : "en";
}

// What says a text by its name, with values in its braces: `t("text", { name: "A" })`.
export function translator(chosen) {
  const words = WORDS[chosen];
  const number = new Intl.NumberFormat(chosen);
  const t = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => {
    const value = values[key];
    return typeof value === "number" ? number.format(value) : String(value ?? "");
  });
  t.language = chosen;
  t.number = (value) => number.format(value);
  t.times = (count) => (count === 1 ? t("once") : t("times", { count }));
  t.percent = (value) => percent(value);
  return t;
}

// A share as people read it: 42.8%, and <0.1% for what is hardly there.
function percent(share) {
  if (share === 0) return "0";
  if (share < 0.0005) return "<0.1%";
  return `${(100 * share).toFixed(share > 0.9995 ? 0 : 1)}%`;
}
