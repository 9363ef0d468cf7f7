// Topic Names and Topic Filters (MQTT 5 section 4.7): what is valid, and what matches what. No state.

/** Bytes of a UTF-8 Encoded String (MQTT 5 section 1.5.4). */
const stringBytesMax = 65_535

/**
 * Whether clients may publish to `topic`: not empty, no wildcards, no U+0000, at most 65,535 bytes
 * [MQTT-4.7.3-1..3].
 */
export function isValidTopic(topic: string): boolean {
  return topic.length > 0 && !/[+#\0]/.test(topic) && Buffer.byteLength(topic) <= stringBytesMax
}

/**
 * Whether clients may subscribe to `filter`: wildcards are whole levels and `#` is the last [MQTT-4.7.1-1..3]
 * [MQTT-4.7.3-1..3].
 */
export function isValidFilter(filter: string): boolean {
  if (filter.length === 0 || filter.includes('\0') || Buffer.byteLength(filter) > stringBytesMax) return false
  if (!/[+#]/.test(filter)) return true
  const levels = filter.split('/')
  return levels.every(
    (level, i) => level === '+' || (level === '#' && i === levels.length - 1) || !/[+#]/.test(level),
  )
}

export function hasWildcard(filter: string): boolean {
  return filter.includes('+') || filter.includes('#')
}

/**
 * Memory that a filter takes in a table of a node, bytes, roughly: one with wildcards has an object for each
 * level, unless it shares them.
 */
export function filterBytes(filter: string): number {
  if (!hasWildcard(filter)) return 256 + 2 * filter.length
  let levels = 1
  for (let at = filter.indexOf('/'); at >= 0; at = filter.indexOf('/', at + 1)) levels++
  return 256 + 2 * filter.length + 120 * levels
}

/** Whether `filter` matches `topic`: the plain rule of section 4.7, which the tries are tested against. */
export function filterMatches(filter: string, topic: string): boolean {
  // [MQTT-4.7.2-1]: `+…` and `#` do not match `$…`
  if (topic.startsWith('$') && !filter.startsWith('$')) return filter === topic
  const wanted = filter.split('/')
  const levels = topic.split('/')
  for (let i = 0; i < wanted.length; i++) {
    if (wanted[i] === '#') return true // also the parent level: `a/#` matches `a`
    if (i >= levels.length || (wanted[i] !== '+' && wanted[i] !== levels[i])) return false
  }
  return wanted.length === levels.length
}
