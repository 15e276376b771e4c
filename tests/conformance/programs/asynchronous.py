"""asyncio: child processes, sockets of both families, signals, executors, timeouts."""

import asyncio
import os
import signal


async def child():
    process = await asyncio.create_subprocess_exec(
        "tr", "a-z", "A-Z", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(b"through a pipe")
    shell = await asyncio.create_subprocess_shell("exit 7")
    return [out.decode(), process.returncode, await shell.wait()]


async def killed():
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        await asyncio.wait_for(process.wait(), 0.05)
    except asyncio.TimeoutError:
        process.kill()
    return await process.wait()


async def shout(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def talk(reader, writer):
    said = []
    for word in [b"one\n", b"two\n"]:
        writer.write(word)
        await writer.drain()
        said.append((await reader.readline()).decode().strip())
    writer.close()
    await writer.wait_closed()
    return said


async def tcp(host):
    server = await asyncio.start_server(shout, host, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        talks = [talk(*await asyncio.open_connection(host, port)) for _ in range(20)]
        answers = await asyncio.gather(*talks)
    return len(answers), answers[0] == answers[-1] == ["ONE", "TWO"]


async def unix(path):
    server = await asyncio.start_unix_server(shout, path)
    async with server:
        return await talk(*await asyncio.open_unix_connection(path))


async def udp():
    loop, received = asyncio.get_running_loop(), asyncio.Queue()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            received.put_nowait(data.decode())

    transport, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=transport.get_extra_info("sockname")
    )
    sender.sendto(b"datagram")
    text = await asyncio.wait_for(received.get(), 10)
    sender.close()
    transport.close()
    return text


async def by_signal():
    got = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(got.wait(), 10)
    return got.is_set()


async def in_executor():
    loop = asyncio.get_running_loop()
    return sum(await asyncio.gather(*(loop.run_in_executor(None, pow, n, 2) for n in range(10))))


async def handler(event):
    return {
        "child": await child(),
        "killed": await killed(),
        "tcp": await tcp("127.0.0.1"),
        "tcp6": await tcp("::1"),
        "unix": await unix("/tmp/socket"),
        "unix_in_workspace": await unix("socket"),
        "udp": await udp(),
        "signal": await by_signal(),
        "executor": await in_executor(),
    }
