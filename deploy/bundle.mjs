// Puts the program and all that it uses into one file, dist/aedes-cluster.js: a node starts with a third of
// the CPU that 400 small files cost it. What a module reads beside itself it finds where it stood before. The
// library (dist/broker/index.js) stays as it is.
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'

const dist = fileURLToPath(new URL('../dist', import.meta.url))

const placed = {
  name: 'import.meta.url as it was',
  transform(code, id) {
    if (!id.startsWith(dist) || !code.includes('import.meta.url')) return undefined
    return code.replaceAll(
      'import.meta.url',
      `new URL(${JSON.stringify(`./${relative(dist, id)}`)}, import.meta.url).href`,
    )
  },
}

const bundle = await rolldown({
  input: { 'aedes-cluster': `${dist}/broker/main.js` },
  platform: 'node',
  plugins: [placed],
  logLevel: 'silent',
})
await bundle.write({
  dir: dist,
  format: 'esm',
  entryFileNames: '[name].js',
  chunkFileNames: 'aedes-cluster-[name].js',
})
await bundle.close()
