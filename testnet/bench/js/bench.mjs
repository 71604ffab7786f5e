// The process of js-libp2p in `rolemesh bench gossip`: the commands of testnet/bench/gossip/process.py, where they are
// explained, in the same loops.

import { createServer, connect } from 'node:net'
import { createHash } from 'node:crypto'
import { createNode, takeCommands } from './node.mjs'

const { multiaddr } = await import('@multiformats/multiaddr')

const TOPIC = '/rolemesh/00/claims/1'
const HEADER_BYTES = 16
const COUNT_BYTES = 8
const SEEN_STEP = 65_536
const PATIENCE_MS = 5_000
const SETTLE_MS = 20_000
const BEHIND_MS = 2_000
const POLL_MS = 5
const SINK = '/bench/sink/1'
const PLAN_BYTES = 8

// The fastest that Node.js has: here it only ever speaks with its own kind, so no id needs to be ours.
const computeMessageId = ({ data }) => createHash('sha1').update(data).digest()

const nodes = []
const turn = () => new Promise(resolve => setImmediate(resolve))
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

const tally = {
  begin (round) {
    this.round = { listeners: 1, is_timed: false, ...round }
    this.count = 0
    this.last = performance.now()
    this.latencies = []
    this.onCount = () => {}
    this.seen = new Uint8Array(SEEN_STEP)
    this.wanted = 0
    this.reached = () => {}
  },
  note (member, data) {
    const view = new DataView(data.buffer, data.byteOffset + data.byteLength - this.round.size, HEADER_BYTES)
    if (view.getUint32(0) !== this.round.number) return
    const place = view.getUint32(4) * nodes.length + member
    while (place >= this.seen.length) {
      const longer = new Uint8Array(2 * this.seen.length)
      longer.set(this.seen)
      this.seen = longer
    }
    if (this.seen[place]) return
    this.seen[place] = 1
    if (this.round.is_timed) this.latencies.push(Number(process.hrtime.bigint() - view.getBigUint64(8)) / 1e6)
    this.setCount(this.count + 1)
  },
  setCount (count) {
    this.count = count
    this.last = performance.now()
    if (count >= this.wanted) this.reached()
    this.onCount(count)
  },
  async waitFor (count) {
    while (this.count < count) {
      const before = this.count
      this.wanted = count
      let timer
      await new Promise(resolve => {
        this.reached = resolve
        timer = setTimeout(resolve, PATIENCE_MS)
      })
      clearTimeout(timer)
      if (this.count === before) return false
    }
    return true
  }
}
tally.begin({ number: 0, size: HEADER_BYTES })

function writePayload (number, seq, dueNs, size) {
  const data = new Uint8Array(size)
  const view = new DataView(data.buffer)
  view.setUint32(0, number)
  view.setUint32(4, seq)
  view.setBigUint64(8, dueNs)
  return data
}

function writeCount (count) {
  const bytes = Buffer.alloc(COUNT_BYTES)
  bytes.writeBigUInt64BE(BigInt(count))
  return bytes
}

// A cumulative count per 8 bytes; the newest of those that came together counts.
function followCounts (socket, take) {
  let rest = Buffer.alloc(0)
  socket.setNoDelay(true)
  socket.on('error', () => {})
  socket.on('data', data => {
    rest = Buffer.concat([rest, data])
    const whole = rest.length - rest.length % COUNT_BYTES
    if (whole) take(Number(rest.readBigUInt64BE(whole - COUNT_BYTES)))
    rest = rest.subarray(whole)
  })
}

async function tell (every) {
  const server = createServer(socket => {
    server.close()
    let total = 0
    const say = count => { if (count % every === 0 || total) socket.write(writeCount(count)) }
    tally.onCount = say
    followCounts(socket, count => {
      total = count
      say(tally.count)
    })
    say(0)
  })
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}

async function follow (port) {
  const socket = connect(port, '127.0.0.1')
  await new Promise(resolve => followCounts(socket, count => {
    tally.setCount(count)
    resolve()
  }))
  return socket
}

const spend = since => {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1e6
}
let spentSince = process.cpuUsage()

const commands = {
  async open ({ members, host, policy }) {
    const [a, b, c, first] = host.split('.')
    for (let member = 0; member < members; member++) {
      const node = await createNode(`${a}.${b}.${c}.${Number(first) + member}`, policy, computeMessageId)
      node.services.gossip.addEventListener('message', ({ detail }) => tally.note(member, detail.data))
      node.services.gossip.subscribe(TOPIC)
      await node.handle(SINK, sink)
      nodes.push(node)
    }
    return {
      nodes: nodes.map(node => {
        const [address, name] = node.getMultiaddrs()[0].toString().split('/p2p/')
        return { name, address }
      })
    }
  },
  async connect ({ member, name, address }) {
    const began = performance.now()
    await nodes[member].dial(multiaddr(`${address}/p2p/${name}`))
    return { ms: performance.now() - began }
  },
  async settle ({ peers }) {
    const ends = performance.now() + SETTLE_MS
    while (nodes.some(node => node.services.gossip.getSubscribers(TOPIC).length < peers)) {
      if (performance.now() > ends) throw new Error('the nodes do not hear each other')
      await pause(POLL_MS)
    }
    return {}
  },
  async expect ({ tell_every: every = 0, is_sampled: _, ...round }) {
    tally.begin(round)
    spentSince = process.cpuUsage()
    return every ? { port: await tell(every) } : {}
  },
  async count () {
    return { delivered: tally.count }
  },
  async spent () {
    return { delivered: tally.count, cpu_s: spend(spentSince), shares: {}, latencies_ms: tally.latencies }
  },
  async flow ({ seconds, messages, window, is_burst: isBurst = false, port = 0, ...round }) {
    tally.begin(round)
    const { number, size, listeners } = tally.round
    const counter = port ? await follow(port) : null
    const began = performance.now()
    const since = process.cpuUsage()
    let seq = 0
    while (seq < messages && performance.now() - began < 1_000 * seconds) {
      await nodes[seq % nodes.length].services.gossip.publish(TOPIC, writePayload(number, seq, 0n, size))
      seq += 1
      if (!isBurst) await turn()
      const behind = (seq - window) * listeners
      if (behind > tally.count && !await tally.waitFor(behind)) break
    }
    counter?.write(writeCount(seq))
    await tally.waitFor(seq * listeners)
    counter?.destroy()
    return { seconds: (tally.last - began) / 1_000, sent: seq, delivered: tally.count, cpu_s: spend(since) }
  },
  async pace ({ number, size, seqs, start_ns: start, every_ns: every }) {
    for (const seq of seqs) {
      const due = BigInt(start) + BigInt(seq) * BigInt(every)
      const waitMs = Number(due - process.hrtime.bigint()) / 1e6
      if (waitMs < -BEHIND_MS) break
      if (waitMs > 0) await pause(waitMs)
      else await turn()
      await nodes[0].services.gossip.publish(TOPIC, writePayload(number, seq, due, size))
    }
    return {}
  },
  // A stream one way: announced, written, answered when all of it has arrived.
  async bulk ({ name, size, count }) {
    const stream = await nodes[0].dialProtocol(nodes[0].getPeers().find(peer => peer.toString() === name), SINK)
    const began = performance.now()
    const message = new Uint8Array(size)
    const answered = (async () => { for await (const _ of stream) return })()
    stream.send(writeCount(size * count))
    for (let sent = 0; sent < count; sent++) if (!stream.send(message)) await stream.onDrain()
    await answered
    const took = (performance.now() - began) / 1_000
    stream.abort(new Error('measured'))
    return { seconds: took }
  }
}

async function sink (stream) {
  let left = -1
  for await (const chunk of stream) {
    const data = chunk.subarray()
    if (left < 0) left = Number(Buffer.from(data).readBigUInt64BE(0)) + PLAN_BYTES
    left -= data.length
    if (left <= 0) {
      stream.send(new Uint8Array(PLAN_BYTES))
      return
    }
  }
}

await takeCommands(({ do: name, ...fields }) => commands[name](fields))
