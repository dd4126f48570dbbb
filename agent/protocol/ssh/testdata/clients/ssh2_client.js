// What programs do with ssh2: arguments are the port and a directory on the host.
const assert = require('assert')
const fs = require('fs')
const { Client } = require('ssh2')
const [port, home] = process.argv.slice(2)
const c = new Client()

const run = (text, stdin) => new Promise((resolve, reject) => c.exec(text, (err, ch) => {
  if (err) return reject(err)
  let out = '', errOut = '', code
  ch.on('data', d => { out += d }).on('exit', n => { code = n }).on('close', () => resolve([code, out, errOut]))
  ch.stderr.on('data', d => { errOut += d })
  ch.end(stdin)
}))

c.on('error', err => { console.error(err); process.exit(1) })
c.on('ready', async () => {
  try {
    assert.deepStrictEqual(await run('echo out; echo err >&2; exit 7'), [7, 'out\n', 'err\n'])
    assert.deepStrictEqual(await run('cat', 'x'.repeat(300000)), [0, 'x'.repeat(300000), ''])
    const [code, out, err] = await run('echo denyme')
    assert(code === 126 && out === '' && err.includes('no-denyme'), [code, out, err].join())
    const many = await Promise.all([...Array(10).keys()].map(i => run('echo ' + i)))
    assert.deepStrictEqual(many.map(m => m[1]), [...Array(10).keys()].map(i => i + '\n'))
    const s = await new Promise((resolve, reject) => c.sftp((err, s) => err ? reject(err) : resolve(s)))
    const call = (name, ...args) => new Promise((resolve, reject) => s[name](...args, (err, v) => err ? reject(err) : resolve(v)))
    const path = home + '/ssh2'
    await call('mkdir', path)
    await call('writeFile', path + '/a', 'hello'.repeat(50000))
    assert.strictEqual((await call('stat', path + '/a')).size, 250000)
    await call('rename', path + '/a', path + '/b')
    assert.deepStrictEqual((await call('readdir', path)).map(e => e.filename).filter(n => n[0] !== '.'), ['b'])
    await call('fastPut', __filename, path + '/self')
    await call('fastGet', path + '/self', path + '-back')
    assert.strictEqual(fs.readFileSync(path + '-back', 'utf8'), fs.readFileSync(__filename, 'utf8'))
    await assert.rejects(call('writeFile', path + '/denyme', 'x'), e => e.code === 3 && /no-denyme/.test(e.message)) // SSH_FX_PERMISSION_DENIED
    for (const n of ['b', 'self']) await call('unlink', path + '/' + n)
    await call('rmdir', path)
    console.log('good')
    c.end()
  } catch (e) { console.error(e); process.exit(1) }
})
c.connect({ host: '127.0.0.1', port: Number(port), username: 'somebody', readyTimeout: 20000 })
