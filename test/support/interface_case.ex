defmodule Support.InterfaceCase do
  @moduledoc """
  For tests of where nodes listen. Each has a host of its own, `host()`, with names as in Debian's hosts file, and another
  host beside it.
  """

  use ExUnit.CaseTemplate

  import Support.Vm

  alias Support.{Carrier, Folder, Network, Tls}

  @outer "10.99.7.1"
  @outer6 "fd99::1"
  @hosts """
  127.0.0.1 localhost
  ::1 localhost
  127.0.1.1 debian
  #{@outer} outer.example
  """

  using do
    quote do
      import Support.{InterfaceCase, Vm}

      @outer unquote(@outer)
      @outer6 unquote(@outer6)
      @local ~w(-embedded_epmd local true)
      @inet6 ~w(-proto_dist inet6_tcp)
    end
  end

  @doc """
  A test for each row: what it is, the name's flag and host, the flags; where OTP's own node of that name listens, and
  where ours does; and what another host gets from our distribution and our EPMD.
  """
  defmacro rows(rows) do
    quote bind_quoted: [rows: rows] do
      for {row, _, _, flags, before, now, _, _} = expected <- rows do
        @tag skip: not available?(flags) and "needs the carriers of OTP 29"
        test "#{row}: #{before} becomes #{now}" do
          assert_row(unquote(Macro.escape(expected)))
        end
      end
    end
  end

  def available?({kind, _}) when kind in [:carrier, :tls_carrier], do: Carrier.available?()
  def available?(_flags), do: true

  def assert_row({_row, flag, node_host, flags, before, now, distribution, epmd}) do
    host = host()
    flags = flags(flags)
    name = unique("node")
    ours = node(host, :ours, flag, name, node_host, flags)
    # A VM with OTP's client, as those of `bin/app rpc` are.
    stock = node(host, :stock, flag, unique("stock"), node_host, flags)

    assert listens(host, ours) == now
    assert listens(host, stock) == before
    assert seen_from_outside(host, port_of(ours)) == distribution
    assert seen_from_outside(host, host.port, name) == epmd
    assert_usable(ours, stock, flags)
  end

  ## What is asked

  # What rpc and remote do, then nodes that the node starts, then what stop does.
  defp assert_usable(ours, stock, flags) do
    node = call(ours, :erlang, :node)
    assert call(stock, :erpc, :call, [node, :erlang, :node, []]) == node
    assert call(ours, :net_adm, :ping, [call(stock, :erlang, :node)]) == :pong
    [name, host] = String.split(Atom.to_string(node), "@")

    options = %{
      name: String.to_charlist("peer-" <> name),
      host: String.to_charlist(host),
      longnames: call(ours, :net_kernel, :longnames),
      args: Enum.map(~w(-start_epmd false -setcookie test) ++ flags, &String.to_charlist/1)
    }

    assert {:ok, peer, peer_node} = call(ours, :peer, :start, [options])
    assert call(ours, :erpc, :call, [peer_node, :erlang, :node, []]) == peer_node
    call(ours, :peer, :stop, [peer])

    pid = pid(ours)
    Process.unlink(ours)
    call(stock, :erpc, :call, [node, :init, :stop, []])
    eventually(fn -> not File.exists?("/proc/#{pid}/exe") end)
  end

  def listens(host, vm) do
    text = Network.run(host.network, ~w(ss --no-header --listening --tcp --numeric) ++ ["sport = :#{port_of(vm)}"])
    [[_, _, _, local | _]] = for line <- String.split(text, "\n", trim: true), do: String.split(line)
    String.trim_trailing(local, ":#{port_of(vm)}")
  end

  def port_of(vm), do: call(vm, EmbeddedEpmd.Doctor.Listener, :of_distribution).port

  def seen_from_outside(host, port) do
    case Enum.uniq(
           for ip <- outer_addresses(),
               do: call(host.outside, :gen_tcp, :connect, [ip, port, [family(ip)], 5_000]) |> elem(0)
         ) do
      [:error] -> :closed
      _ -> :open
    end
  end

  # What other hosts get that ask the EPMD.
  def seen_from_outside(host, port, name) do
    answers =
      for ip <- outer_addresses(), do: call(host.outside, EmbeddedEpmd.Boot.Client, :port, [name, ip, port, 5_000])

    cond do
      Enum.any?(answers, &match?({:port, _, _}, &1)) -> :open
      Enum.all?(answers, &(&1 == {:error, :econnrefused})) -> :closed
      true -> :silent
    end
  end

  defp outer_addresses do
    for address <- [@outer, @outer6], do: elem(:inet.parse_address(String.to_charlist(address)), 1)
  end

  defp family(ip), do: if(tuple_size(ip) == 4, do: :inet, else: :inet6)

  ## What runs

  def host do
    [network, other] = Network.start_linked(@outer, "10.99.7.2")

    for {network, address} <- [{network, @outer6}, {other, "fd99::2"}],
        do: Network.run(network, ~w(ip address add #{address}/64 dev wire nodad))

    port = free_port()
    %{network: network, hosts: hosts_file(), port: port, outside: start_plain(port, [Network.option(other)])}
  end

  def hosts_file do
    hosts = Path.join(Folder.new("hosts"), "hosts")
    File.write!(hosts, @hosts)
    hosts
  end

  defp flags(:tls), do: flags({:tls, []})
  defp flags({:tls, more}), do: ~w(-proto_dist inet_tls -ssl_dist_optfile #{Tls.options()}) ++ more
  defp flags({:carrier, more}), do: Carrier.flags("socket") ++ more
  defp flags({:tls_carrier, more}), do: Carrier.flags("tls_socket") ++ more
  defp flags(flags), do: flags

  def node(host, whose, flag, name, node_host, flags, more \\ []) do
    flags = [flag, if(node_host, do: "#{name}@#{node_host}", else: name) | flags]
    place = Network.option(host.network, host.hosts, "debian")
    options = [place, interface: false, env: [{"ERL_EPMD_ADDRESS", ""}]] ++ more

    if whose == :ours,
      do: start_unnamed(host.port, flags, options),
      else: start_plain(host.port, [{:flags, flags} | options])
  end
end
