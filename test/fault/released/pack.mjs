// `node test/fault/released/pack.mjs`, after `npm run build`: packs this build as the version that was released last,
// aedes-cluster.tgz, which the test of rolling upgrades starts beside nodes of the build that it tests
// (test/support/builds.ts). Done with each release, and committed. It is the program without what it depends on, which it
// finds in the node_modules/ of the repository; the same build is packed to the same bytes.
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const dist = join(root, 'dist')
const target = fileURLToPath(new URL('aedes-cluster.tgz', import.meta.url))

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

async function bundleInto(dir) {
  const bundle = await rolldown({
    input: { 'aedes-cluster': `${dist}/broker/main.js` },
    platform: 'node',
    plugins: [placed],
    external: (id) => !id.startsWith('.') && !id.startsWith('/'),
    logLevel: 'silent',
  })
  await bundle.write({
    dir,
    format: 'esm',
    entryFileNames: '[name].js',
    chunkFileNames: 'aedes-cluster-[name].js',
    minify: { compress: false, mangle: false, codegen: true }, // without comments and blanks; names stay
  })
  await bundle.close()
}

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-released-'))
try {
  const packed = join(folder, 'package')
  await bundleInto(join(packed, 'dist'))
  cpSync(join(dist, 'bridge/redis/lua'), join(packed, 'dist/bridge/redis/lua'), { recursive: true })
  const { name, version, license, type } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  writeFileSync(
    join(packed, 'package.json'),
    `${JSON.stringify({ name, version, license, type }, null, 2)}\n`,
  )
  const named = readdirSync(packed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((file) => readFileSync(file, 'utf8').includes(root))
  if (named.length > 0) throw new Error(`a path of this machine stands in ${named.join(', ')}`)
  const same = [
    '--sort=name',
    '--mtime=@0',
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    '--mode=u=rwX,go=rX',
  ]
  const tar = execFileSync('tar', [...same, '-C', folder, '-cf', '-', 'package'], { maxBuffer: 1 << 28 })
  writeFileSync(target, execFileSync('gzip', ['-9n'], { input: tar, maxBuffer: 1 << 28 }))
} finally {
  rmSync(folder, { recursive: true, force: true })
}
