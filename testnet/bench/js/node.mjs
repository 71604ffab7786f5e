// A js-libp2p node with gossip, and the loop that takes commands: one JSON object per line, one JSON answer each.

// libp2p 3 is written for Node 22; this one function is all that Node 20 lacks.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((a, b) => { resolve = a; reject = b })
  return { promise, resolve, reject }
}

const { createInterface } = await import('node:readline')
const { createLibp2p } = await import('libp2p')
const { gossipsub, StrictSign, StrictNoSign } = await import('@libp2p/gossipsub')
const { identify } = await import('@libp2p/identify')
const { tcp } = await import('@libp2p/tcp')
const { noise } = await import('@libp2p/noise')
const { yamux } = await import('@libp2p/yamux')

// Degrees are those of p2p/gossip.py; `policy` is 'sign' or 'nosign', `msgIdFn` names unsigned messages.
export async function createNode (host, policy, msgIdFn) {
  return createLibp2p({
    addresses: { listen: [`/ip4/${host}/tcp/0`] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionManager: { inboundConnectionThreshold: Infinity },
    services: {
      identify: identify(),
      gossip: gossipsub({
        D: 4,
        Dlo: 3,
        Dhi: 6,
        Dscore: 3,
        Dout: 1,
        allowPublishToZeroTopicPeers: true,
        ...(policy === 'sign'
          ? { globalSignaturePolicy: StrictSign }
          : { globalSignaturePolicy: StrictNoSign, msgIdFn })
      })
    }
  })
}

export async function takeCommands (run) {
  for await (const line of createInterface({ input: process.stdin })) {
    let answer
    try {
      answer = await run(JSON.parse(line))
    } catch (error) {
      answer = { error: `${error.name}: ${error.message}` }
    }
    process.stdout.write(JSON.stringify(answer) + '\n')
  }
  process.exit(0)
}
