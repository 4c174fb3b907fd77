defmodule EmbeddedEpmd.HostAddress do
  @moduledoc false
  # The addresses of this machine, and whether the server listens at the one where other nodes look this node up.

  alias EmbeddedEpmd.{Environment, Log, Native}

  @doc """
  The address of the node's host, if it belongs to this machine and the server does not listen there; otherwise `nil`.
  """
  @spec missing(Native.server(), node()) :: :inet.ip_address() | nil
  def missing(server, node) do
    with [_, host] <- String.split(Atom.to_string(node), "@"),
         {:ok, ip} <- :inet.getaddr(String.to_charlist(host), Environment.family()),
         true <- own?(ip) and Native.place(server, ip) == :elsewhere do
      ip
    else
      _ -> nil
    end
  end

  @doc """
  The address of a host, in the family of the distribution if it has one there; the error is that of this family. It may
  run while the VM boots, so it uses plain functions only.
  """
  @spec resolve(atom() | charlist()) :: {:ok, :inet.ip_address()} | {:error, :inet.posix()}
  def resolve(host) do
    family = Environment.family()
    other = if family == :inet, do: :inet6, else: :inet

    with {:error, reason} <- :inet.getaddr(host, family),
         {:error, _} <- :inet.getaddr(host, other),
         do: {:error, reason}
  end

  @doc "The address in what `status/0` says of the owner: `127.0.0.1:4369` or `[::1]:4369`."
  @spec of_owner(String.t()) :: :inet.ip_address()
  def of_owner(owner) do
    [_, host] = Regex.run(~r/^\[?(.*?)\]?:\d+$/, owner)
    {:ok, ip} = :inet.parse_address(String.to_charlist(host))
    ip
  end

  @doc "Logs a warning if that address is missing. Runs in a process of its own, since resolving a name may take long."
  @spec warn_if_missing(Native.server()) :: :ok
  def warn_if_missing(server) do
    spawn(fn ->
      with ip when ip != nil <- missing(server, node()) do
        Log.log(
          :warning,
          "this node's host name has an address at which no server listens: nodes of this host, as of bin/app rpc, remote " <>
            "and stop, will not find it; add it to the addresses (ERL_EPMD_ADDRESS, or addresses of config :embedded_epmd)",
          name: Atom.to_string(node()),
          address: List.to_string(:inet.ntoa(ip))
        )
      end
    end)

    :ok
  end

  @doc "Whether an address belongs to this machine."
  @spec own?(:inet.ip_address()) :: boolean()
  # The whole of 127.0.0.0/8 does, and interfaces list one address of it.
  def own?({127, _, _, _}), do: true
  def own?({0, 0, 0, 0, 0, 0xFFFF, _, _} = ip), do: own?(:inet.ipv4_mapped_ipv6_address(ip))

  def own?(ip) do
    {:ok, interfaces} = :inet.getifaddrs()
    Enum.any?(interfaces, fn {_, options} -> {:addr, ip} in options end)
  end
end
