defmodule EmbeddedEpmd.Doctor.Connection.Address do
  @moduledoc false
  # The step `:address`: the address of the other node's host, in the family of this node's distribution, and its
  # sources.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection

  # For a DNS query; milliseconds.
  @patience 2_000

  @spec examine(Connection.way()) :: Connection.step()
  def examine(way) do
    case address_please(way) do
      {:ok, ip, port, version} ->
        {[by_endpoint(way, ip, port)], Map.merge(way, %{ip: ip, port: port, version: version})}

      {:ok, ip} ->
        {judge(way, ip, sources(way)), Map.put(way, :ip, ip)}

      {:error, reason} ->
        {[unknown(way, reason)], way}
    end
  end

  # The callback is optional; OTP falls back in the same way.
  defp address_please(%{discovery: discovery, name: name, host: host, family: family}) do
    module =
      if Code.ensure_loaded?(discovery) and function_exported?(discovery, :address_please, 3),
        do: discovery,
        else: :erl_epmd

    module.address_please(String.to_charlist(name), String.to_charlist(host), family)
  end

  defp by_endpoint(way, ip, port) do
    whence = if way.discovery == EmbeddedEpmd.Discovery, do: ":endpoints say", else: "#{inspect(way.discovery)} says"
    ok("#{way.node} is at #{at(ip)}, port #{port}, #{whence}: no EPMD is asked.")
  end

  ## Sources

  # The answer of each source that this VM's resolver asks. None is asked if the host is an address.
  defp sources(%{host: host, family: family}) do
    name = String.to_charlist(host)
    asked = :inet_db.res_option(:lookup)

    cond do
      match?({:ok, _}, literal(host)) -> []
      :native in asked -> [{"the hosts file", hosts(name, family)} | dns(name, family)]
      true -> Enum.flat_map(asked, &source(&1, name, family))
    end
  end

  defp source(:file, name, family), do: [{"the hosts file", hosts(name, family)}]
  defp source(:dns, name, family), do: dns(name, family)
  defp source(_other, _name, _family), do: []

  defp hosts(name, family), do: addresses(:inet_hosts.gethostbyname(name, family))

  # The DNS need not know localhost, and a search domain may have a host of that name.
  defp dns(~c"localhost", _family), do: []

  defp dns(name, family) do
    _ = :inet_db.res_update_conf()

    if :inet_db.res_option(:nameservers) == [] do
      []
    else
      type = if family == :inet, do: :a, else: :aaaa
      [{"the DNS", addresses(:inet_res.getbyname(name, type, @patience))}]
    end
  end

  # The last element of OTP's record hostent is the list of addresses.
  defp addresses({:ok, hostent}), do: {:ok, elem(hostent, tuple_size(hostent) - 1)}
  defp addresses({:error, reason}), do: {:error, reason}

  ## What they mean

  defp judge(way, ip, sources) do
    Enum.reject([loopback(way, ip), differ(way, ip, sources), found(way, ip, sources)], &is_nil/1)
  end

  defp found(way, ip, sources) do
    by = for {source, {:ok, ips}} <- sources, ip in ips, do: source

    cond do
      literal(way.host) == {:ok, ip} -> ok("The host of #{way.node} is an address, #{at(ip)}.")
      by == [] -> ok("The host #{way.host} is #{at(ip)}.")
      true -> ok("The host #{way.host} is #{at(ip)}, by #{Enum.join(by, " and ")}.")
    end
  end

  defp differ(way, ip, sources) do
    case for {source, {:ok, ips}} <- sources, ip not in ips, do: "by #{source} it is #{Enum.map_join(ips, ", ", &at/1)}" do
      [] ->
        nil

      others ->
        warning(
          "The host #{way.host} is #{at(ip)}; #{Enum.join(others, ", ")}.",
          "What counts is #{at(ip)}, and another machine may see it otherwise.",
          "Correct the entry that is out of date."
        )
    end
  end

  # Debian gives a machine's own name the address 127.0.1.1.
  defp loopback(way, ip) do
    if loopback?(ip) and not own_host?(way) and literal(way.host) != {:ok, ip} and way.host != "localhost" do
      warning(
        "The host #{way.host} is #{at(ip)}, which is this machine.",
        "If #{way.node} runs on another one, it is looked for in the wrong place. Debian writes 127.0.1.1 into /etc/hosts.",
        "Correct the entry for #{way.host} in /etc/hosts."
      )
    end
  end

  defp loopback?({127, _, _, _}), do: true
  defp loopback?({0, 0, 0, 0, 0, 0, 0, 1}), do: true
  defp loopback?(_ip), do: false

  defp own_host?(%{here: nil, host: host}), do: host == to_string(:net_adm.localhost())
  defp own_host?(%{here: here, host: host}), do: String.ends_with?(Atom.to_string(here), "@" <> host)

  defp unknown(way, reason) do
    problem(
      "The host #{way.host} has no #{family(way.family)} address: #{:inet.format_error(reason)}.",
      why(way),
      remedy(way)
    )
  end

  defp why(way) do
    case for {source, {:error, reason}} <- sources(way), do: "#{source}: #{:inet.format_error(reason)}" do
      [] -> "There is nowhere to connect to."
      said -> "There is nowhere to connect to. Asked were #{Enum.join(said, ", ")}."
    end
  end

  defp remedy(%{family: family, host: host} = way) do
    other = if family == :inet, do: :inet6, else: :inet

    case :inet.getaddr(String.to_charlist(host), other) do
      {:ok, ip} ->
        "It has the #{family(other)} address #{at(ip)}: start all nodes with -proto_dist #{protocol(way.tls, other)}, " <>
          "or give it one of #{family(family)}."

      {:error, _} ->
        "Add #{host} to /etc/hosts or to the DNS, or give the node a host that resolves; a name is short or whole, and " <>
          "nothing between."
    end
  end

  defp literal(host), do: :inet.parse_strict_address(String.to_charlist(host))

  defp family(:inet), do: "IPv4"
  defp family(:inet6), do: "IPv6"

  defp protocol(tls, family), do: "#{family}_#{if tls, do: "tls", else: "tcp"}"

  @doc "An address as it is written."
  @spec at(:inet.ip_address()) :: String.t()
  def at(ip), do: to_string(:inet.ntoa(ip))
end
