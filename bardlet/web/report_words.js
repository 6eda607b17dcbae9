// The words of the page of runs, in English and Chinese.

export const WORDS = {
  en: {
    title: "Runs", other: "中文", theme: "Light or dark", runs: "Runs", none: "No runs here yet: bardlet demo makes one.",
    x: "Against", iterations: "iterations", tokens: "tokens", seconds: "seconds of training",
    log: "Log loss", logX: "Log x", smoothing: "Smoothing", csv: "CSV", reset: "Whole range", print: "Print",
    loss: "Loss (nats per token)", lr: "Learning rate", grad_norm: "Gradient norm", tokens_per_s: "Tokens per second",
    mfu: "MFU (share of peak FLOP/s)", data_ms: "Waiting for the batch (ms)",
    legend: "Thick: train, smoothed. Thin or band: as it is. Dashed with dots: validation, the large dot its best. Dotted: what guessing and counting reach.",
    train: "train", val: "validation", best: "best validation",
    sampled: "estimated on {n} batches", whole: "whole split",
    training: "training", finished: "finished", stopped: "stopped", starting: "starting",
    updated: "last line {s} s ago", bits: "bits per byte",
    uniform: "equal chances, ln {v}", unigram: "counts of tokens", bigram: "counts of pairs", trigram: "counts of three",
    fourgram: "counts of four",
    doctor: "What the doctor says", healthy: "Nothing wrong in {n} lines.", few: "Too few lines to judge the curves by.",
    since: "since iteration {i}", samples: "Samples over time", noSamples: "None: train with --sample_interval.",
    after: "after {i} iterations",
    differences: "Options that differ", option: "option",
    events: "What happened", resumed: "resumed", saved: "saved", spike: "spike of the loss", skipped: "spike, no step taken",
    nonfinite: "not finite", dead: "stopped learning", memory: "memory ran out", disk: "checkpoint not saved",
    stopped_early: "stopped early", replanned: "another length", kept: "kept checkpoint",
    about: "About this run", data: "Text", machine: "Machine", model: "Model", command: "Train it again",
    use: "Use it", config: "All options", changed: "not the default", versions: "Versions",
    params: "parameters", documents: "documents", vocabulary: "vocabulary",
    common: "commonest tokens", begins: "validation begins", ends: "validation ends",
    thinned: "{n} lines; each point stands for {k} of them: the band is from the least to the greatest, the line their mean.",
    keys: "Arrow keys move along the curve, + and - zoom, 0 shows all. Drag to zoom.",
    notes: "Not everything could be read", unreachable: "The server does not answer; trying again.",
    noValues: "no values yet", time: "seconds of training", epochs: "epochs",
    more: "Only {n} runs are drawn at once.",
  },
  zh: {
    title: "训练记录", other: "English", theme: "浅色或深色", runs: "各次训练", none: "这里还没有训练记录：运行 bardlet demo 会得到一个。",
    x: "横轴", iterations: "迭代次数", tokens: "词元数", seconds: "训练秒数",
    log: "损失取对数", logX: "横轴取对数", smoothing: "平滑", csv: "CSV", reset: "全部范围", print: "打印",
    loss: "损失（nats / 词元）", lr: "学习率", grad_norm: "梯度范数", tokens_per_s: "每秒词元数",
    mfu: "MFU（占峰值算力的比例）", data_ms: "等待数据（毫秒）",
    legend: "粗线：平滑后的训练损失；细线或色带：原始值；带点的虚线：验证损失，大点为最佳；点线：只靠猜测和计数能达到的损失。",
    train: "训练", val: "验证", best: "最佳验证损失",
    sampled: "由 {n} 个批次估计", whole: "整个验证集",
    training: "训练中", finished: "已完成", stopped: "已停止", starting: "正在启动",
    updated: "最后一行在 {s} 秒前", bits: "比特 / 字节",
    uniform: "均匀猜测，ln {v}", unigram: "只数单个词元", bigram: "数相邻两个", trigram: "数相邻三个", fourgram: "数相邻四个",
    doctor: "诊断", healthy: "在 {n} 行记录中没有发现问题。", few: "记录太少，还不能判断曲线。",
    since: "自第 {i} 次迭代起", samples: "不同时刻的样本", noSamples: "没有样本：训练时加上 --sample_interval。",
    after: "{i} 次迭代之后",
    differences: "不同的选项", option: "选项",
    events: "发生过的事", resumed: "继续训练", saved: "已保存", spike: "损失突增", skipped: "损失突增，跳过这一步",
    nonfinite: "出现非有限数", dead: "停止学习", memory: "内存不足", disk: "检查点未能保存",
    stopped_early: "提前停止", replanned: "改变了总长度", kept: "保留的检查点",
    about: "这次训练", data: "文本", machine: "机器", model: "模型", command: "重新训练",
    use: "使用它", config: "全部选项", changed: "不是默认值", versions: "版本",
    params: "参数", documents: "文档", vocabulary: "词表",
    common: "最常见的词元", begins: "验证集的开头", ends: "验证集的结尾",
    thinned: "共 {n} 行；每个点代表其中 {k} 行：色带从最小值到最大值，线是平均值。",
    keys: "方向键沿曲线移动，+ 和 - 缩放，0 显示全部；拖动可放大。",
    notes: "有些内容无法读取", unreachable: "服务器没有回应，正在重试。",
    noValues: "还没有数据", time: "训练秒数", epochs: "轮",
    more: "最多同时画出 {n} 次训练。",
  },
};
const ILLNESSES = {
  "diverged": "发散", "stopped learning": "停止学习", "learning rate too high": "学习率太高",
  "learning rate too low": "学习率太低", "gradient norm exploding": "梯度爆炸", "overfitting": "过拟合",
  "throughput dropped": "速度下降", "the splits are of different kinds": "训练与验证文本不同类",
  "validation far above train": "验证损失远高于训练损失",
};

let language = "en";

/** Takes a language for all words; English where it is another than these two. */
export function setLanguage(name) {
  language = name in WORDS ? name : "en";
}

export function getLanguage() {
  return language;
}

/** The words of a key in the language, with {names} filled in; a key without words is its own. */
export function word(key, values = {}) {
  const words = WORDS[language], text = Object.hasOwn(words, key) ? words[key] : key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** What an illness is called; what a doctor of another version names stays as it is. */
export function illness(name) {
  return language === "zh" ? ILLNESSES[name] ?? name : name;
}

/** A number of items for people: 1,234,567. */
export function count(value) {
  return Number(value).toLocaleString("en-US", { maximumFractionDigits: 0 });
}
