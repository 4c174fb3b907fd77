defmodule EmbeddedEpmd.Doctor.Connection.Handshake do
  @moduledoc false
  # The distribution handshake from the side that connects: OTP's "Distribution Protocol", version 6, of OTP 23 and
  # later. Only encodes and decodes; the caller decides what a message means.

  import Bitwise

  # The length before each message has two bytes over TCP, four over TLS.
  @enforce_keys [:transport, :socket, :length_bits]
  defstruct [:transport, :socket, :length_bits, deadline: 0]

  @type t :: %__MODULE__{
          transport: :gen_tcp | :ssl,
          socket: term(),
          length_bits: 16 | 32,
          # In milliseconds of the monotonic clock.
          deadline: integer()
        }

  @type status :: :ok | :ok_simultaneous | :nok | :not_allowed | :alive | {:unknown, String.t()}
  @type challenge :: %{name: String.t(), flags: non_neg_integer(), challenge: non_neg_integer()}
  @type error ::
          {:error, :tls | :old | {:unexpected, binary()} | {:tls_alert, term()} | :inet.posix() | :closed | :timeout}

  @published 0x01
  @dist_hdr_atom_cache 0x2000
  @fragments 0x800000
  @name_me 0x2_0000_0000
  @mandatory_25_digest 0x400_0000
  # The flags that the digest implies.
  @mandatory_25 0x4 ||| 0x10 ||| 0x80 ||| 0x100 ||| 0x200 ||| 0x400 ||| 0x800 ||| 0x10000 ||| 0x20000 ||| 0x40000 |||
                  0x1000000

  @longest_message 1_024

  @doc "The flags that this VM sends as a hidden node, and those that it requires of others."
  @spec flags() :: {hidden :: non_neg_integer(), mandatory :: non_neg_integer()}
  def flags do
    flags = :erts_internal.get_dflags()
    # Without atom cache and fragments every message can be decoded by itself.
    {elem(flags, 1) &&& bnot(@published ||| @dist_hdr_atom_cache ||| @fragments ||| @name_me), elem(flags, 2)}
  end

  @doc "Those of the flags `wanted` that are missing in `flags`, as a node sent them."
  @spec missing(non_neg_integer(), non_neg_integer()) :: non_neg_integer()
  def missing(wanted, flags) do
    meant = if (flags &&& @mandatory_25_digest) == 0, do: flags, else: flags ||| @mandatory_25
    wanted &&& bnot(meant)
  end

  @doc "Sends this side's name, and returns the status that the other side answers."
  @spec greet(t(), String.t(), pos_integer()) :: {:ok, status()} | error()
  def greet(link, name, creation) do
    {flags, _} = flags()

    with :ok <- send_message(link, <<?N, flags::64, creation::32, byte_size(name)::16, name::binary>>),
         {:ok, message} <- receive_message(link) do
      case message do
        "sok" -> {:ok, :ok}
        "sok_simultaneous" -> {:ok, :ok_simultaneous}
        "snok" -> {:ok, :nok}
        "snot_allowed" -> {:ok, :not_allowed}
        "salive" -> {:ok, :alive}
        <<?s, status::binary>> -> {:ok, {:unknown, status}}
        other -> {:error, {:unexpected, other}}
      end
    end
  end

  @doc "Answers the status `alive`: tells the other side to replace its old connection to this name."
  @spec supersede(t()) :: :ok | error()
  def supersede(link), do: send_message(link, "strue")

  @doc "Receives the other side's name, flags and challenge."
  @spec challenge(t()) :: {:ok, challenge()} | error()
  def challenge(link) do
    with {:ok, message} <- receive_message(link) do
      case message do
        <<?N, flags::64, challenge::32, _creation::32, size::16, name::binary-size(size), _::binary>> ->
          {:ok, %{name: name, flags: flags, challenge: challenge}}

        <<?n, _version::16, _flags::32, _challenge::32, _name::binary>> ->
          {:error, :old}

        other ->
          {:error, {:unexpected, other}}
      end
    end
  end

  @doc "Answers the challenge, and checks the other side's proof that it has the cookie, too."
  @spec prove(t(), challenge(), atom()) :: :ok | {:error, :wrong_proof} | error()
  def prove(link, %{challenge: challenge}, cookie) do
    ours = :rand.uniform(0xFFFFFFFF)

    with :ok <- send_message(link, <<?r, ours::32, digest(challenge, cookie)::binary>>),
         {:ok, message} <- receive_message(link) do
      case message do
        <<?a, proof::binary-size(16)>> -> if proof == digest(ours, cookie), do: :ok, else: {:error, :wrong_proof}
        other -> {:error, {:unexpected, other}}
      end
    end
  end

  defp digest(challenge, cookie), do: :erlang.md5([Atom.to_charlist(cookie), Integer.to_charlist(challenge)])

  @spec close(t()) :: :ok
  def close(%{transport: transport, socket: socket}) do
    _ = transport.close(socket)
    :ok
  end

  @doc "Sets the deadline for all that follows: this many milliseconds from now."
  @spec with_timeout(t(), pos_integer()) :: t()
  def with_timeout(link, timeout), do: %{link | deadline: System.monotonic_time(:millisecond) + timeout}

  @doc "The milliseconds until the deadline."
  @spec time_left(t()) :: non_neg_integer()
  def time_left(%{deadline: deadline}) when is_integer(deadline) do
    max(0, deadline - System.monotonic_time(:millisecond))
  end

  @doc "Sends bytes without a length before them."
  @spec send_bytes(t(), iodata()) :: :ok | {:error, term()}
  def send_bytes(%{transport: transport, socket: socket}, bytes), do: transport.send(socket, bytes)

  @spec receive_bytes(t(), pos_integer()) :: {:ok, binary()} | {:error, term()}
  def receive_bytes(%{transport: transport, socket: socket} = link, count) do
    # With a time-out of 0 what is there would still be returned, and a peer that never ends would never be timed out.
    case time_left(link) do
      0 -> {:error, :timeout}
      left -> transport.recv(socket, count, left)
    end
  end

  defp send_message(%{length_bits: bits} = link, message),
    do: send_bytes(link, [<<byte_size(message)::size(bits)>>, message])

  defp receive_message(%{length_bits: bits} = link) do
    with {:ok, header} <- receive_bytes(link, div(bits, 8)) do
      case {header, :binary.decode_unsigned(header)} do
        # Type and version of a TLS record: an alert, or the handshake.
        {<<type, 3>>, _} when type in [21, 22] -> {:error, :tls}
        {_, length} when length in 1..@longest_message -> receive_bytes(link, length)
        {other, _} -> {:error, {:unexpected, other}}
      end
    end
  end
end
