defmodule EmbeddedEpmd.Doctor.Connection.Reach do
  @moduledoc false
  # Connects to a port of the other host, and explains why that fails.

  alias EmbeddedEpmd.Doctor.Connection.Handshake
  alias EmbeddedEpmd.Doctor.NetworkError

  # Milliseconds. OTP gives the whole set-up of a connection 7 seconds (net_setuptime).
  @timeout 3_000
  # Milliseconds; enough for a TLS server to answer on any network.
  @tls_timeout 1_000

  # A ClientHello of TLS 1.2 without extensions: every TLS server answers it, at least with an alert.
  @client_hello <<22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3, 0::256, 0, 0, 2, 0xC0, 0x2F, 1, 0>>

  @doc "How long to wait for an answer, in milliseconds."
  @spec timeout() :: pos_integer()
  def timeout, do: @timeout

  @doc "Connects over TCP, as the distribution does."
  @spec open(:inet.ip_address(), :inet.port_number(), pos_integer()) :: {:ok, Handshake.t()} | {:error, atom()}
  def open(ip, port, timeout \\ @timeout) do
    family = if tuple_size(ip) == 8, do: :inet6, else: :inet
    options = [family, :binary, active: false, packet: :raw, nodelay: true]

    with {:ok, socket} <- :gen_tcp.connect(ip, port, options, timeout),
         do: {:ok, Handshake.with_timeout(%Handshake{transport: :gen_tcp, socket: socket, length_bits: 16}, timeout)}
  end

  @doc "Whether a TLS server listens there."
  @spec tls?(:inet.ip_address(), :inet.port_number()) :: boolean()
  def tls?(ip, port) do
    with {:ok, link} <- open(ip, port, @tls_timeout) do
      answer = with :ok <- Handshake.send_bytes(link, @client_hello), do: Handshake.receive_bytes(link, 2)
      Handshake.close(link)
      match?({:ok, <<type, 3>>} when type in [21, 22], answer)
    else
      {:error, _} -> false
    end
  end

  @doc "What an error of `open/3` means, as the first and second sentence of a finding. `where` names port and address."
  @spec explain(atom(), String.t()) :: {String.t(), String.t()}
  def explain(:econnrefused, where),
    do: {"#{where} refuses connections.", "The machine answers, and nobody listens on that port at that address."}

  def explain(reason, where) when reason in [:timeout, :etimedout] do
    {"#{where} does not answer within #{div(@timeout, 1_000)} seconds.",
     "A firewall between here and there drops what is sent, or the machine is off."}
  end

  def explain(reason, where) when reason in [:eacces, :eperm, :einval] do
    {"#{where} is closed to this machine by itself: #{NetworkError.format(reason)}.",
     "A firewall or a route of this machine forbids it."}
  end

  def explain(reason, where) do
    {"#{where} cannot be reached: #{NetworkError.format(reason)}.",
     "There is no route to it: check the network, the address, and the firewalls in between."}
  end
end
