// The path of an HTTP request, whatever its request line says. It never throws: `GET //` is a path, and no
// URL.

/** Without the query. A client may name the whole URL (RFC 9112 section 3.2.2). */
export function pathOf(target: string | undefined): string {
  if (target === undefined) return ''
  if (!target.startsWith('/')) return URL.canParse(target) ? new URL(target).pathname : ''
  return target.split(/[?#]/, 1)[0]!
}

/** The query of a request. */
export function queryOf(target: string | undefined): URLSearchParams {
  const at = target?.indexOf('?') ?? -1
  return new URLSearchParams(at < 0 ? '' : target!.slice(at + 1))
}
