// A js-libp2p node driven over standard input, one JSON command per line, one JSON answer each:
// {dial: multiaddr} {echo: bytes, peer, protocol} {reset: true, peer, protocol} {heard: true}

// libp2p 3 is written for Node 22; this one function is all that Node 20 lacks.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((a, b) => { resolve = a; reject = b })
  return { promise, resolve, reject }
}

const { createHash } = await import('node:crypto')
const { createInterface } = await import('node:readline')
const { createLibp2p } = await import('libp2p')
const { tcp } = await import('@libp2p/tcp')
const { noise } = await import('@libp2p/noise')
const { yamux } = await import('@libp2p/yamux')
const { multiaddr } = await import('@multiformats/multiaddr')
const { peerIdFromString } = await import('@libp2p/peer-id')

const ECHO = '/echo/1'
const LISTEN = '/listen/1'
const heard = []

const node = await createLibp2p({
  addresses: { listen: [`/ip4/${process.argv[2]}/tcp/0`] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()]
})

async function send (stream, bytes) {
  if (!stream.send(bytes)) await stream.onDrain()
}

await node.handle(ECHO, async (stream) => {
  for await (const chunk of stream) await send(stream, chunk.subarray().slice())
  await stream.close()
})

await node.handle(LISTEN, async (stream) => {
  stream.addEventListener('close', (event) => heard.push(event.error?.name ?? 'closed'))
  for await (const chunk of stream) heard.push(chunk.byteLength)
})

async function run (command) {
  if (command.dial) {
    await node.dial(multiaddr(command.dial))
    return {}
  }
  if (command.heard) return { heard }
  const stream = await node.dialProtocol(peerIdFromString(command.peer), command.protocol)
  if (command.reset) {
    await send(stream, new Uint8Array(3))
    await new Promise(resolve => setImmediate(resolve))
    stream.abort(new Error('as asked'))
    return {}
  }
  const data = new Uint8Array(command.echo).map((_, index) => index % 251)
  const hash = createHash('sha256')
  let size = 0
  const reading = (async () => {
    for await (const chunk of stream) {
      hash.update(chunk.subarray())
      size += chunk.byteLength
    }
  })()
  for (let at = 0; at < data.length; at += 65536) await send(stream, data.subarray(at, at + 65536))
  await stream.close()
  await reading
  return { size, same: hash.digest('hex') === createHash('sha256').update(data).digest('hex') }
}

console.log(JSON.stringify({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) }))
for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(JSON.stringify(await run(JSON.parse(line))))
  } catch (error) {
    console.log(JSON.stringify({ error: `${error.name}: ${error.message}` }))
  }
}
process.exit(0)
