defmodule EmbeddedEpmd.Boot.HostAddress do
  @moduledoc false
  # The addresses of this machine, and whether the server listens at the one where other nodes look this node up.

  alias EmbeddedEpmd.Boot.{Environment, Log}
  alias EmbeddedEpmd.Native

  @doc """
  The address of the node's host, if it belongs to this machine and the server does not listen there; otherwise `nil`.
  """
  @spec missing(Native.server(), node()) :: :inet.ip_address() | nil
  def missing(server, node) do
    with [_, host] <- :string.split(:erlang.atom_to_list(node), ~c"@"),
         {:ok, ip} <- :inet.getaddr(host, Environment.family()),
         true <- own?(ip) and Native.place(server, ip) == :elsewhere do
      ip
    else
      _ -> nil
    end
  end

  @doc """
  The address of a host, in the family of the distribution if it has one there; the error is that of this family.
  """
  @spec resolve(atom() | charlist()) :: {:ok, :inet.ip_address()} | {:error, :inet.posix()}
  def resolve(host) do
    family = Environment.family()
    other = if family == :inet, do: :inet6, else: :inet

    with {:error, reason} <- :inet.getaddr(host, family),
         {:error, _} <- :inet.getaddr(host, other),
         do: {:error, reason}
  end

  @doc """
  The addresses of a host in the family of the distribution. `localhost` and what is below it are loopbacks, whoever is
  asked (RFC 6761).
  """
  @spec known(charlist() | :unknown) :: [:inet.ip_address()]
  def known(:unknown), do: []

  def known(host) do
    family = Environment.family()

    case {:inet.parse_strict_address(host), :inet_hosts.gethostbyname(host, family)} do
      {{:ok, ip}, _} -> if of_family?(ip, family), do: [ip], else: if(loopback?(ip), do: [loopback()], else: [])
      {_, {:ok, entry}} -> :lists.usort(:erlang.element(6, entry))
      _ -> if localhost?(host), do: [loopback()], else: ask(host, family)
    end
  end

  # While the VM boots, OTP's resolver would wait for the supervisor that waits for us. Later the library may be missing.
  defp ask(host, family) do
    if Environment.booting?() do
      ips = :lists.map(&parse/1, Native.resolve(:unicode.characters_to_binary(host)))
      :lists.filter(fn ip -> of_family?(ip, family) end, ips)
    else
      with {:ok, ips} <- :inet.getaddrs(host, family), do: :lists.usort(ips), else: (_ -> [])
    end
  rescue
    _ in ErlangError -> []
  end

  defp of_family?(ip, :inet), do: tuple_size(ip) == 4
  defp of_family?(ip, :inet6), do: tuple_size(ip) == 8

  @doc "An address that was written as text."
  @spec parse(String.t()) :: :inet.ip_address()
  def parse(address) do
    {:ok, ip} = :inet.parse_address(:erlang.binary_to_list(address))
    ip
  end

  @doc "Whether this host means itself on every machine: an address of the loopback, or `localhost`."
  @spec everywhere_local?(charlist()) :: boolean()
  def everywhere_local?(host) do
    case :inet.parse_strict_address(host) do
      {:ok, ip} -> loopback?(ip)
      _ -> localhost?(host)
    end
  end

  defp localhost?(host) do
    host = :string.lowercase(host)
    host == ~c"localhost" or :lists.suffix(~c".localhost", host)
  end

  @doc "Whether an address is one of the loopback."
  @spec loopback?(:inet.ip_address()) :: boolean()
  def loopback?({127, _, _, _}), do: true
  def loopback?({0, 0, 0, 0, 0, 0xFFFF, high, _}), do: :erlang.div(high, 256) == 127
  def loopback?(ip), do: ip == {0, 0, 0, 0, 0, 0, 0, 1}

  @doc "The loopback of the distribution's family, where OTP's client registers."
  @spec loopback() :: :inet.ip_address()
  def loopback, do: if(Environment.family() == :inet6, do: {0, 0, 0, 0, 0, 0, 0, 1}, else: {127, 0, 0, 1})

  @doc """
  Where an EPMD listens that is closed to other hosts: at the loopbacks, also those at which nodes of this host look this
  one up. With Debian's hosts file that is 127.0.1.1, of the host's own name.
  """
  @spec loopbacks() :: [String.t()]
  def loopbacks do
    named = :lists.filter(&loopback?/1, known(:inet_db.gethostname()) ++ known(Environment.host()))
    others = :lists.usort(named) -- [{127, 0, 0, 1}, {0, 0, 0, 0, 0, 0, 0, 1}]
    ["127.0.0.1", "::1" | :lists.map(fn ip -> :erlang.list_to_binary(:inet.ntoa(ip)) end, others)]
  end

  @doc "The address in what `status/0` says of the owner: `127.0.0.1:4369` or `[::1]:4369`."
  @spec of_owner(String.t()) :: :inet.ip_address()
  def of_owner(owner) do
    [host, _port] = :string.split(owner, ":", :trailing)
    parse(:string.trim(host, :both, [?[, ?]]))
  end

  @doc "Logs a warning if that address is missing. Runs in a process of its own, since resolving a name may take long."
  @spec warn_if_missing(Native.server()) :: :ok
  def warn_if_missing(server) do
    :erlang.spawn(fn ->
      with ip when ip != nil <- missing(server, node()) do
        Log.log(
          :warning,
          "no EPMD listens at the address of this node's host name, so that bin/app rpc, remote and stop do not find the " <>
            "node: add it to addresses (ERL_EPMD_ADDRESS, or config :embedded_epmd)",
          name: :erlang.atom_to_binary(node()),
          address: :erlang.list_to_binary(:inet.ntoa(ip))
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
    case :inet.getifaddrs() do
      {:ok, interfaces} -> :lists.any(fn {_, options} -> :lists.member({:addr, ip}, options) end, interfaces)
      # Without netlink sockets, as where systemd's RestrictAddressFamilies= leaves out AF_NETLINK.
      {:error, _} -> bindable?(ip)
    end
  end

  defp bindable?(ip) do
    family = if :erlang.tuple_size(ip) == 8, do: :inet6, else: :inet

    case :gen_udp.open(0, [family, ip: ip]) do
      {:ok, socket} -> :gen_udp.close(socket) == :ok
      {:error, _} -> false
    end
  end
end
