defmodule EmbeddedEpmd.Boot.Exposure do
  @moduledoc false
  # To which hosts a server is exposed in a VM whose OTP does not use `Discovery`, as without `-epmd_module` before
  # OTP 27.2. Nothing tells us there that the VM is about to become a node, so the server has to run before. Until the
  # VM's own node is registered on this port it listens on loopback only, whoever else registers.

  alias EmbeddedEpmd.Boot.{Environment, HostAddress}
  alias EmbeddedEpmd.Native

  # For OTP's client to tell its state; milliseconds. It may be waiting for an EPMD.
  @timeout 1_000

  @doc """
  Whether other hosts may reach a server of this port: this VM is a node, and is registered on the port.

  `known` says that it was so before, or that `Discovery` has registered the node. It stays so until the VM is a node no
  more, since its registration ends for 2 seconds when the port changes hands.
  """
  @spec open?(:inet.port_number(), known :: boolean()) :: boolean()
  def open?(port, known),
    do: Environment.distributed?() and (known or registered_by_otp?(port))

  # OTP's client keeps its connection to the EPMD as long as the node is registered. The name in a table proves nothing:
  # any user of this host may register it, with the same port, where the node itself is not registered.
  defp registered_by_otp?(port) do
    state = :sys.get_state(:erl_epmd, @timeout)
    is_tuple(state) and :lists.any(&match?({:ok, {_loopback, ^port}}, peer(&1)), :erlang.tuple_to_list(state))
  catch
    :exit, _ -> false
  end

  defp peer(socket) when is_port(socket), do: :inet.peername(socket)
  # With the kernel parameter inet_backend.
  defp peer({:"$inet", _module, _socket} = socket), do: :inet.peername(socket)
  defp peer(_other), do: :none

  @doc "The settings of a server that is `open?` to other hosts, or is not: then loopback addresses only, and no handover."
  @spec limit(Native.config(), open? :: boolean()) :: Native.config()
  def limit(config, true), do: config

  # The addresses of a socket unit cannot be changed; they count unless others have been chosen.
  def limit(config, false),
    do: %{config | addresses: loopbacks(config.addresses), addresses_chosen: false, hand_over: false}

  defp loopbacks([]), do: ["127.0.0.1", "::1"]

  defp loopbacks(addresses) do
    case :lists.filter(&loopback?/1, addresses) do
      [] -> :lists.uniq(:lists.map(&if(ipv6?(&1), do: "::1", else: "127.0.0.1"), addresses))
      loopbacks -> loopbacks
    end
  end

  defp loopback?(address), do: HostAddress.loopback?(HostAddress.parse(address))
  defp ipv6?(address), do: :binary.match(address, ":") != :nomatch
end
