// What the page says, in English and Chinese, and how it writes numbers.

const EN = {
  draw: 'Draw', cluster: 'Cluster', queue: 'Queue', gallery: 'Gallery',
  prompt: 'Prompt', promptHint: 'What shall be drawn?', negative: 'Without', negativeHint: 'What shall not be in it',
  size: 'Size', steps: 'Steps', guidance: 'Guidance', seed: 'Seed', seedAny: 'any', count: 'Images', model: 'Model',
  start: 'Start from an image', startHint: 'Drop, paste or choose one', imageMissing: 'That picture began from an image: add it again, or draw once more without.', notImage: '{name} is no image. PNG, JPEG, WebP and GIF can be read.', strength: 'Strength', remove: 'Remove', more: 'More settings',
  examples: 'Try', cancel: 'Cancel', cancelAll: 'Cancel all mine', again: 'Again', vary: 'Vary', download: 'Download',
  delete: 'Delete', sure: 'Really delete?', close: 'Close', open: 'Show',
  queued: 'Waiting', in_progress: 'Drawing', completed: 'Done', failed: 'Failed', cancelled: 'Cancelled',
  stepOf: 'Step {k} of {z}', left: '{s} left', atNode: 'at {node}', place: 'No. {n} in line', next: 'Next in line', placing: 'Finding a device',
  drawnBy: 'Drawn by {node}', drawnIn: '{s}', lost: '{node} is gone after step {k}', goesOn: '{node} goes on from step {k}', movedTo: 'Moved from {from} to {to}',
  gain: 'saves {s}', move_idle: '{to} had nothing to do', move_aside: 'made way for another', move_waiting: '{to} is sooner', move_draining: '{from} takes no more', alive: 'Ready', draining: 'Takes no new work', away: 'Away', paused: 'Paused', you: 'you are here',
  work: 'Work ahead', speed: 'Speed', load: 'GPU', heat: 'Temperature', power: 'Power', mode: 'Mode', helpedBy: 'Helped by', idle: 'Idle', nothing: 'nothing',
  alone: '{node} alone: {a}. Together: {t}.', quiet: 'Nothing to draw.', together: '{n} devices, {f}× the speed of {node} alone.',
  decides: 'Who decides', learned: 'learned', rule: 'rule', mine: 'Mine', everyone: 'Everyone', all: 'All', anyDevice: 'Any device', anyModel: 'Any model', status: 'Status', device: 'Device', whose: 'Whose',
  position: 'Place', eta: 'Ready in', noneOpen: 'Nothing is waiting.', noneDrawn: 'No images yet.', loadMore: 'More', missing: 'Not heard: {nodes}',
  waited: 'Waiting', drew: 'Drawing', returned: 'Sending', made: 'Made', asked: 'Asked at',
  keyTitle: 'This cluster asks for a key', keyLabel: 'API key', keyGo: 'Use it', keyNote: 'Kept until this tab is closed.', keyForget: 'Forget the key',
  gone: '{node} does not answer.', trying: 'Trying {node} …', back: 'Waiting for it …', came: '{from} does not answer. This is {node}.',
  theme: 'Light or dark', language: '中文', pause: 'Pause', drain: 'Drain', resume: 'Resume', remove: 'Remove', sureRemove: 'Its tasks are lost. Really remove?', readmit: 'Let in again', removed: 'Removed', silent: 'The node did not answer. Try again.', dismiss: 'Close the message', sec: '{n} s', min: '{m} min {n} s',
  skip: 'Skip to the content', progress: 'Progress', image: 'Image', imageOf: 'Image of: {prompt}', nodes: 'Devices', tasksOf: 'Tasks at {node}', noPrompt: 'prompt removed', dice: 'Any seed', landscape: 'landscape', portrait: 'portrait', square: 'square', ready: 'Ready',
};
const ZH = {
  draw: '绘制', cluster: '集群', queue: '队列', gallery: '画廊',
  prompt: '提示词', promptHint: '想画什么？', negative: '排除', negativeHint: '画面中不要出现的内容',
  size: '尺寸', steps: '步数', guidance: '引导强度', seed: '种子', seedAny: '随机', count: '张数', model: '模型',
  start: '从图片开始', startHint: '拖入、粘贴或选择图片', imageMissing: '这幅画是从一张图片开始的：请重新添加，或再次绘制而不使用它。', notImage: '{name} 不是图片。可以使用 PNG、JPEG、WebP 和 GIF。', strength: '变化程度', remove: '移除', more: '更多设置',
  examples: '试试', cancel: '取消', cancelAll: '取消我的全部任务', again: '重画', vary: '变化', download: '下载',
  delete: '删除', sure: '确定删除？', close: '关闭', open: '查看',
  queued: '等待中', in_progress: '绘制中', completed: '完成', failed: '失败', cancelled: '已取消',
  stepOf: '第 {k} / {z} 步', left: '还需 {s}', atNode: '在 {node}', place: '排在第 {n} 位', next: '即将开始', placing: '正在选择设备',
  drawnBy: '由 {node} 绘制', drawnIn: '{s}', lost: '{node} 在第 {k} 步后失联', goesOn: '{node} 从第 {k} 步继续', movedTo: '从 {from} 移到 {to}',
  gain: '节省 {s}', move_idle: '{to} 空闲', move_aside: '给其他任务让路', move_waiting: '{to} 更快', move_draining: '{from} 不再接任务', alive: '就绪', draining: '不接新任务', away: '失联', paused: '已暂停', you: '当前节点',
  work: '待完成', speed: '速度', load: 'GPU', heat: '温度', power: '功率', mode: '模式', helpedBy: '协助者', idle: '空闲', nothing: '无',
  alone: '{node} 独自：{a}；一起：{t}。', quiet: '没有任务。', together: '{n} 台设备，速度是 {node} 独自的 {f} 倍。',
  decides: '调度策略', learned: '学习策略', rule: '规则', mine: '我的', everyone: '所有人', all: '全部', anyDevice: '任意设备', anyModel: '任意模型', status: '状态', device: '设备', whose: '归属',
  position: '位置', eta: '预计', noneOpen: '没有等待的任务。', noneDrawn: '还没有图片。', loadMore: '更多', missing: '未响应：{nodes}',
  waited: '等待', drew: '绘制', returned: '传回', made: '完成于', asked: '提交于',
  keyTitle: '此集群需要密钥', keyLabel: 'API 密钥', keyGo: '使用', keyNote: '关闭标签页后即忘记。', keyForget: '忘记密钥',
  gone: '{node} 没有响应。', trying: '正在尝试 {node} …', back: '等待恢复 …', came: '{from} 没有响应。当前是 {node}。',
  theme: '浅色或深色', language: 'English', pause: '暂停', drain: '排空', resume: '恢复', remove: '移除', sureRemove: '其任务将丢失。确定移除？', readmit: '重新加入', removed: '已移除', silent: '节点没有响应，请重试。', dismiss: '关闭消息', sec: '{n} 秒', min: '{m} 分 {n} 秒',
  skip: '跳到内容', progress: '进度', image: '图片', imageOf: '图片：{prompt}', nodes: '设备', tasksOf: '{node} 的任务', noPrompt: '提示词已删除', dice: '随机种子', landscape: '横向', portrait: '纵向', square: '方形', ready: '就绪',
};
const LANGUAGES = { en: EN, zh: ZH };

let language = localStorage.getItem('language')
  ?? (navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en');

export const currentLanguage = () => language;

export function setLanguage(chosen) {
  language = chosen;
  localStorage.setItem('language', chosen);
  document.documentElement.lang = chosen === 'zh' ? 'zh-CN' : 'en';
}

export function t(word, values = {}) {
  const text = LANGUAGES[language][word] ?? EN[word] ?? word;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? '');
}

// What one language says and another does not.
export function untold() {
  const words = [...Object.keys(EN), ...Object.keys(ZH)];
  return words.filter((word) => !Object.values(LANGUAGES).every((told) => told[word]));
}

// Seconds, as long as they are worth telling.
export function seconds(value) {
  if (!(value >= 0)) return '–';
  if (value < 9.95) return t('sec', { n: value.toFixed(1) });
  if (value < 90) return t('sec', { n: Math.round(value) });
  return t('min', { m: Math.floor(value / 60), n: Math.round(value % 60) });
}

export function number(value, digits = 1) {
  return value.toLocaleString(language, { maximumFractionDigits: digits });
}

const POLICIES = { lad_ts: 'LAD-TS', lad_ts_plus: 'LAD-TS+', d2sac_ts: 'D2SAC-TS' };

export const policyName = (name) => POLICIES[name] ?? (name ?? '').replaceAll('_', ' ');

// Why something failed: as the node said it, or that nobody answered.
export const sentence = (problem) => (problem.status ? problem.message : t('silent'));

export function moment(unixS) {
  const date = new Date(unixS * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const how = today ? { timeStyle: 'short' } : { dateStyle: 'medium', timeStyle: 'short' };
  return date.toLocaleString(language, how);
}

setLanguage(language);
