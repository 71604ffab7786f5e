// A js-libp2p node for tests: node peer.mjs HOST [sign|nosign]. It says who and where it is, then takes commands:
// {dial: multiaddr} {echo: bytes, peer, protocol} {reset: true, peer, protocol} {heard: true}
// {subscribe: topic} {mesh: topic} {publish: base64, topic} {delivered: topic}

import { createNode, takeCommands } from './node.mjs'

const { createHash } = await import('node:crypto')
const { blake3 } = await import('@noble/hashes/blake3.js')
const { multiaddr } = await import('@multiformats/multiaddr')
const { peerIdFromString } = await import('@libp2p/peer-id')

const ECHO = '/echo/1'
const LISTEN = '/listen/1'
const heard = []
const delivered = [] // of each gossip message its size, SHA-256 and id

// As p2p/gossipsub/signing.py: 20 bytes over everything sent.
function computeMessageId ({ topic, data }) {
  return blake3.create({ dkLen: 20 }).update(Buffer.from(`rolemesh/v1/gossip\0${topic}\0`)).update(data).digest()
}

const node = await createNode(process.argv[2], process.argv[3] ?? 'nosign', computeMessageId)
const gossip = node.services.gossip

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

gossip.addEventListener('gossipsub:message', ({ detail: { msgId, msg: { topic, data } } }) => {
  delivered.push({ topic, size: data.length, hash: createHash('sha256').update(data).digest('hex'), id: msgId })
})

async function run (command) {
  if (command.dial) {
    await node.dial(multiaddr(command.dial))
    return {}
  }
  if (command.heard) return { heard }
  if (command.subscribe) {
    gossip.subscribe(command.subscribe)
    return {}
  }
  if (command.mesh) return { mesh: gossip.getMeshPeers(command.mesh) }
  if (command.delivered) return { delivered: delivered.filter(({ topic }) => topic === command.delivered) }
  if (command.publish !== undefined) {
    const { recipients } = await gossip.publish(command.topic, new Uint8Array(Buffer.from(command.publish, 'base64')))
    return { recipients: recipients.length }
  }
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
await takeCommands(run)
