// For whom the admin endpoint is. Without tokens it asks for no password, so that what a browser is shown elsewhere must not
// reach it: a page can point a name of its own at this address (DNS rebinding), and then the request's Host
// is that name.
import { isIP } from 'node:net'
import { hostname } from 'node:os'

/**
 * Whether a request with this Host is answered: an IP address, this machine or a name that the operator gave.
 */
export function hostCheck(admin: URL, names: readonly string[]): (host: string | undefined) => boolean {
  const known = new Set(['localhost', hostname(), admin.hostname, ...names].map((name) => name.toLowerCase()))
  return (host) => {
    if (host === undefined) return true // HTTP/1.0, which no browser speaks
    const url = `http://${host}`
    if (!/^[\w.:[\]-]+$/.test(host) || !URL.canParse(url)) return false
    const name = new URL(url).hostname.replace(/\.$/, '')
    return isIP(name.replace(/^\[|\]$/g, '')) !== 0 || known.has(name)
  }
}
