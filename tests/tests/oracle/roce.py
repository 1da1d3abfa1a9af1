"""RoCE packets made with scapy, one a line on standard output: scapy's name of
the opcode or "-", a blank, the frame in hexadecimal.

usage: roce.py opcodes | acknowledgements | cut | short | sequence | conversations
"""

import sys

from scapy.contrib.roce import AETH, BTH, CNPPadding, GRH, _bth_opcodes
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
TAGS = [None, Dot1Q(vlan=5), Dot1AD(vlan=7) / Dot1Q(vlan=5)]

# Extended headers that scapy lacks, in bytes (IBTA, chapter 9): by transport,
# by direction, by operation.
RDETH, DETH, XRCETH, RETH, IMMDT, IETH, ATOMIC, ATOMIC_ACK, FETH = 4, 8, 4, 16, 4, 4, 28, 8, 4
OPERATION = {
    0x03: IMMDT, 0x05: IMMDT, 0x06: RETH, 0x09: IMMDT, 0x0A: RETH, 0x0B: RETH + IMMDT,
    0x0C: RETH, 0x12: ATOMIC_ACK, 0x13: ATOMIC, 0x14: ATOMIC, 0x16: IETH, 0x17: IETH,
    0x1C: FETH + RETH, 0x1D: RETH,
}
# SEND, WRITE and READ responses; the others end with their headers.
WITH_PAYLOAD = {*range(0x0C), 0x0D, 0x0E, 0x0F, 0x10, 0x16, 0x17}
RESPONSES = {0x0D, 0x0E, 0x0F, 0x10, 0x11, 0x12}
WITH_AETH = {0x0D, 0x0F, 0x10, 0x11, 0x12}


def roce(opcode, psn=0, qp=0x11, syndrome=0, payload=32, **fields):
    """From the BTH on, with what the opcode demands behind it."""
    bth = BTH(opcode=opcode, psn=psn, dqpn=qp, migreq=1, ackreq=1, **fields)
    transport, operation = opcode & 0xE0, opcode & 0x1F
    if opcode == 0x81:
        bth.becn = 1
        return bth / CNPPadding()
    response = operation in RESPONSES
    before = {
        0x40: RDETH if response else RDETH + DETH,
        0x60: DETH,
        0xA0: 0 if response else XRCETH,
    }.get(transport, 0)
    packet = bth
    if before:
        # Whatever it ends with is a source queue pair that is not the management's.
        packet = packet / Raw(bytes(before - 1) + b"\x09")
    if operation in WITH_AETH:
        packet = packet / AETH(syndrome=syndrome, msn=5)
    rest = OPERATION.get(operation, 0) + (payload if operation in WITH_PAYLOAD else 0)
    return packet / Raw(bytes(rest)) if rest else packet


def v4(tos=2, **fields):
    return IP(src="10.0.0.1", dst="10.0.0.2", tos=tos, **fields)


def v6(tos=2):
    return IPv6(src="fd00::1", dst="fd00::2", tc=tos)


def udp(payload):
    return UDP(sport=49152, dport=4791, chksum=0) / payload


def tagged(tag, packet):
    return ETHER / tag.copy() / packet if tag else ETHER / packet


def v1(packet):
    # Without IP below it, scapy cannot compute the invariant CRC.
    packet.icrc = 0
    length = len(bytes(packet))
    return GRH(sgid=1, dgid=2, nexthdr=0x1B, hoplmt=64, paylen=length) / packet


def opcodes():
    for opcode in range(256):
        for tag in TAGS:
            for network in (v4(), v6(3), v6() / IPv6ExtHdrDestOpt()):
                yield opcode, tagged(tag, network / udp(roce(opcode, psn=opcode * 65537 % 2**24)))
            yield opcode, tagged(tag, v1(roce(opcode, qp=0xFFFFFF)))


def acknowledgements():
    for opcode in (0x0D, 0x0F, 0x10, 0x11, 0x12, 0x51, 0xB1):
        for syndrome in range(256):
            packet = roce(opcode, psn=9, syndrome=syndrome, payload=0)
            yield opcode, ETHER / v4(3) / udp(packet)
            if opcode == 0x11:
                yield opcode, ETHER / v6() / udp(roce(opcode, syndrome=syndrome, payload=0))


def cut():
    """Cut in flight: the headers still tell the length that was."""
    whole = [
        (0x11, ETHER / v4() / udp(roce(0x11, syndrome=0x60, payload=0))),
        (0x0C, tagged(TAGS[1], v6() / udp(roce(0x0C, payload=0)))),
        (0x0B, tagged(TAGS[2], v4(3) / udp(roce(0x0B, payload=5, padcount=3)))),
        (0x81, ETHER / v4() / udp(roce(0x81))),
        (0x64, ETHER / v6() / IPv6ExtHdrDestOpt() / udp(roce(0x64, payload=8))),
    ]
    for opcode, packet in whole:
        frame = bytes(packet)
        for length in range(14, len(frame) + 1):
            yield opcode, Raw(frame[:length])


def short():
    """Shortened by the sender, whose lengths tell the truth."""
    for opcode in (0x04, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x11, 0x12, 0x13, 0x24, 0x29, 0x64, 0x65):
        packet = roce(opcode, payload=0)
        packet.icrc = 0
        packet = bytes(packet)
        for network in (v4(), v6()):
            for length in range(len(packet) + 1):
                yield opcode, ETHER / network / udp(Raw(packet[:length]))


def sequence():
    in_order = list(range(0xFFFFF0, 0x1000000)) + list(range(0, 16))
    lost = [5, 6, 9, 10, 14, 15]
    again = [20, 21, 22, 21, 22, 23, 23, 24]
    swapped = [40, 42, 41, 43, 44]
    for qp, numbers in enumerate((in_order, lost, again, swapped), start=0x20):
        for psn in numbers:
            yield 0x04, ETHER / v4() / udp(roce(0x04, psn=psn, qp=qp))
            # None of these is a request in the sequence.
            for opcode in (0x11, 0x0E, 0x81, 0x64):
                yield opcode, ETHER / v4() / udp(roce(opcode, psn=psn + 7, qp=qp))
    # The other transports that number their requests, over IPv6.
    for opcode in (0x24, 0xA4):
        for psn in lost + again:
            yield opcode, ETHER / v6() / udp(roce(opcode, psn=psn, qp=opcode))


def conversations():
    """What soft-RoCE does not send: version 1, unreliable and extended reliable
    connections, congestion notifications. A queue pair for each flow."""
    def both(qp, opcode, psn, tos=2, **fields):
        yield opcode, ETHER / v4(tos) / udp(roce(opcode, psn=psn, qp=qp, **fields))
        yield opcode, ETHER / v6(tos) / udp(roce(opcode, psn=psn, qp=qp + 1, **fields))
        # Version 1 has no ECN.
        yield opcode, ETHER / v1(roce(opcode, psn=psn, qp=qp + 2, **fields))

    # A message of many packets, some of them lost, some marked on the way.
    for base, qp in ((0x20, 0x100), (0xA0, 0x110), (0x00, 0x120)):
        for psn in (*range(10), 12, 13, 13, 20):
            opcode = base | (0x06 if psn == 0 else 0x08 if psn == 20 else 0x07)
            yield from both(qp, opcode, psn, tos=3 if psn % 4 == 1 else 2, payload=256)
        if base != 0x20:
            for operation in (0x13, 0x14):
                yield from both(qp, base | operation, 21 + operation)
    # Answers of extended reliable connections, good and bad.
    for psn, syndrome in enumerate((0x1F, 0x00, 0x60, 0x62, 0x2E, 0x3F, 0x1F)):
        yield from both(0x130, 0xB1, psn, syndrome=syndrome)
    for psn, opcode in enumerate((0xAD, 0xAE, 0xAF, 0xB0, 0xB2)):
        yield from both(0x140, opcode, psn)
    # Bursts of congestion notifications, to senders of any kind.
    for burst in range(50):
        yield from both(0x150, 0x81, 0, tos=burst % 4)


for opcode, packet in globals()[sys.argv[1]]():
    name = _bth_opcodes.get(opcode, "-")
    print(name, bytes(packet).hex())
