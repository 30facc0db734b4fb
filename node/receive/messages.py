"""DIMSE messages straight from the connection: C-STORE into the spool, everything else to pynetdicom.

This reads as PS3.8 Annex E: a P-DATA-TF holds fragments of messages; first those of the command set, then those of the
data set. Command and data may share a PDU, either may be split at will, and fragments may be empty. A data set is
never gathered in memory: its pieces go from the connection's buffer to the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from node.receive import command
from node.receive.command import COMMAND, LAST, P_DATA_TF, Command
from node.receive.inlet import Inlet, ProtocolError

LARGEST_OTHER_DATA_SET = 1 << 20
"""Bytes of the data set of a message that is no C-STORE request; no service that is offered has one."""
MOST_PIECES = 512
"""Pieces of the buffer that wait to be written."""
WORTH_WRITING = 1 << 16
"""Bytes that are written while the peer is waited for; fewer wait for more."""
_FRAGMENT_HEADER = struct.Struct(">IBB")
_PDU_AND_FRAGMENT_HEADER = struct.Struct(">BxIIBB")


class Storing(Protocol):
    """Takes one instance in. Its methods raise nothing: what goes wrong is the status."""

    def write(self, pieces: list[memoryview]) -> None:
        """Take pieces of the data set, which may be overwritten afterwards."""

    def finish(self, pieces: list[memoryview]) -> int:
        """Take the last pieces; return the status of the response once the instance is safe."""

    def discard(self) -> None:
        """There will be no more; what came is no instance."""


class MessageStream:
    """The messages of one association, in the order of their fragments.

    Parameters
    ----------
    is_storage
        Whether an accepted presentation context takes instances of a SOP class; raises :class:`ProtocolError` for a
        context that was not accepted.
    begin
        Begins an instance, of a C-STORE request in a presentation context.
    answer
        Sends a response to a request in a presentation context, with a status.
    pass_on
        Hands a whole P-DATA-TF PDU to pynetdicom.
    may_go_on
        Asked after each PDU: whether nothing else has to be done before the next one.
    largest_message
        Bytes of a message beyond which the association is dropped.
    """

    def __init__(
        self,
        inlet: Inlet,
        is_storage: Callable[[int, str], bool],
        begin: Callable[[Command, int], Storing],
        answer: Callable[[Command, int, int], None],
        pass_on: Callable[[bytes], None],
        may_go_on: Callable[[], bool],
        largest_message: int,
    ) -> None:
        self._inlet = inlet
        inlet.before_reuse = self._flush
        inlet.before_waiting = self._use_the_time
        self._is_storage = is_storage
        self._begin = begin
        self._answer = answer
        self._pass_on = pass_on
        self._may_go_on = may_go_on
        self._largest_message = largest_message
        self._pieces: list[memoryview] = []
        self._storing: Storing | None = None
        self._reset()

    @property
    def in_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._context_id is not None

    def read(self) -> None:
        """Take P-DATA-TF PDUs until nothing more is here, or the next PDU is another one.

        Raises
        ------
        ProtocolError, node.receive.inlet.HungUpError, node.receive.inlet.InterruptedInletError
            The message that was begun is discarded.
        """
        try:
            while self._inlet.next_kind() == P_DATA_TF:
                if not self._take_whole_pdus():
                    self._read_pdu()
                if not self._may_go_on():
                    return
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Forget the message that was begun."""
        self._pieces.clear()
        if self._storing is not None:
            self._storing.discard()
        self._reset()

    def _reset(self) -> None:
        self._storing = None
        self._context_id: int | None = None
        self._request: Command | None = None
        self._command = bytearray()
        self._bytes = 0

    def _take_whole_pdus(self) -> bool:
        """Take PDUs that are here as a whole and hold one fragment: a command set, or what is here of an instance.

        Returns
        -------
        bool
            Whether any was taken; what is not taken here, for whatever reason, is for `_read_pdu` to look at.
        """
        inlet = self._inlet
        view, start, end = inlet.window()
        begun = start
        while end - start >= _PDU_AND_FRAGMENT_HEADER.size:
            kind, length, inner, context_id, control = _PDU_AND_FRAGMENT_HEADER.unpack_from(view, start)
            after = start + command.PDU_HEADER_BYTES + length
            if kind != P_DATA_TF or after > end or inner != length - 4 or inner < 2 or length > inlet.largest_pdu:
                break
            content = view[start + _PDU_AND_FRAGMENT_HEADER.size : after]
            if self._storing is not None:
                if context_id != self._context_id or control & COMMAND or self._bytes + inner > self._largest_message:
                    break
                self._bytes += inner - 2
                self._pieces.append(content)
                start = after
                if control & LAST:
                    inlet.skip_to(start)
                    self._finish()
                    return True
                if len(self._pieces) >= MOST_PIECES:
                    self._flush()
            elif self._context_id is None and control == COMMAND | LAST and inner <= command.LARGEST_COMMAND:
                inlet.skip_to(after)
                self._context_id = context_id
                self._begin_message(bytes(content), context_id)
                return True
            else:
                break
        inlet.skip_to(start)
        return start > begun

    def _read_pdu(self) -> None:
        _, left = self._inlet.begin_pdu()
        while left:
            if left < command.PDV_HEADER_BYTES:
                raise ProtocolError("a PDU that ends in a fragment's header")
            length, context_id, control = _FRAGMENT_HEADER.unpack(self._inlet.take(command.PDV_HEADER_BYTES))
            left -= 4
            if not 2 <= length <= left:
                raise ProtocolError("a fragment that does not fit into its PDU")
            left -= length
            self._read_fragment(length - 2, context_id, control)

    def _read_fragment(self, length: int, context_id: int, control: int) -> None:
        if self._context_id is None:
            self._context_id = context_id
        elif context_id != self._context_id:
            raise ProtocolError("a fragment of another presentation context in the midst of a message")
        if bool(control & COMMAND) == (self._request is not None):
            raise ProtocolError("command and data set in the wrong order")
        self._bytes += length
        if self._bytes > self._largest_message:
            raise TooLargeError(f"more than {self._largest_message} bytes")
        if control & COMMAND:
            self._read_command(length, context_id, control)
        elif self._storing is not None:
            self._read_data(length, context_id, control)
        else:
            self._read_other_data(length, context_id, control)

    def _read_command(self, length: int, context_id: int, control: int) -> None:
        if len(self._command) + length > command.LARGEST_COMMAND:
            raise ProtocolError("a command set without end")
        self._command += self._gathered(length)
        if control & LAST:
            self._begin_message(self._command, context_id)

    def _begin_message(self, encoded: bytes | bytearray, context_id: int) -> None:
        try:
            request = command.decode(encoded)
        except command.CommandError as error:
            raise ProtocolError(str(error)) from error
        is_storage = self._is_storage(context_id, request.sop_class_uid)
        if request.is_store_request:
            if not is_storage or request.message_id is None:
                raise ProtocolError("a C-STORE request that is incomplete, or in a context of another service")
            self._storing = self._begin(request, context_id)
        else:
            self._pass_on(command.data_pdu(context_id, COMMAND | LAST, encoded))
            if not request.has_data_set:
                self._reset()
                return
        self._request = request
        self._bytes = 0

    def _read_data(self, length: int, context_id: int, control: int) -> None:
        while length:
            piece = self._inlet.some(length)
            length -= len(piece)
            self._pieces.append(piece)
            if len(self._pieces) >= MOST_PIECES:
                self._flush()
        if control & LAST:
            self._finish()

    def _finish(self) -> None:
        """The instance is here as a whole."""
        storing, request, context_id = self._storing, self._request, self._context_id
        assert storing is not None
        assert request is not None
        assert context_id is not None
        status = storing.finish(self._pieces)
        self._pieces.clear()
        self._reset()
        self._inlet.rewind()
        self._answer(request, context_id, status)

    def _read_other_data(self, length: int, context_id: int, control: int) -> None:
        if self._bytes > LARGEST_OTHER_DATA_SET:
            raise ProtocolError("a data set where none is expected")
        self._pass_on(command.data_pdu(context_id, control, self._gathered(length)))
        if control & LAST:
            self._reset()

    def _gathered(self, length: int) -> bytearray:
        gathered = bytearray()
        while len(gathered) < length:
            gathered += self._inlet.some(length - len(gathered))
        return gathered

    def _flush(self) -> None:
        if self._pieces and self._storing is not None:
            self._storing.write(self._pieces)
        self._pieces.clear()

    def _use_the_time(self) -> None:
        """The peer is waited for: what is here is written meanwhile, unless it is too little."""
        if self._pieces and sum(map(len, self._pieces)) >= WORTH_WRITING:
            self._flush()
            self._inlet.rewind()


class TooLargeError(ProtocolError):
    """A message of more bytes than an instance may have."""
