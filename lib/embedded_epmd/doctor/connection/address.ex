defmodule EmbeddedEpmd.Doctor.Connection.Address do
  @moduledoc false
  # The step `:address`: the address of the other node's host, in the family of this node's distribution, and its
  # sources.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Boot.HostAddress
  alias EmbeddedEpmd.Doctor.{Connection, NetworkError}

  # For a DNS query; milliseconds.
  @dns_timeout 2_000

  @spec examine(Connection.state()) :: Connection.step()
  def examine(state) do
    case address_please(state) do
      {:ok, ip, port, version} ->
        {[by_endpoint(state, ip, port)], Map.merge(state, %{ip: ip, port: port, version: version})}

      {:ok, ip} ->
        {judge(state, ip, sources(state)), Map.put(state, :ip, ip)}

      {:error, reason} ->
        {[unknown(state, reason)], state}
    end
  end

  # The callback is optional; OTP falls back in the same state.
  defp address_please(%{discovery: discovery, name: name, host: host, family: family}) do
    module =
      if Code.ensure_loaded?(discovery) and function_exported?(discovery, :address_please, 3),
        do: discovery,
        else: :erl_epmd

    resolve(fn -> module.address_please(String.to_charlist(name), String.to_charlist(host), family) end)
  end

  # OTP's resolver raises for a name that the DNS cannot have, such as one with a label of more than 63 characters.
  defp resolve(ask) do
    ask.()
  rescue
    _ -> {:error, :einval}
  end

  defp by_endpoint(state, ip, port) do
    whence =
      if state.discovery == EmbeddedEpmd.Discovery, do: ":endpoints say", else: "#{inspect(state.discovery)} says"

    ok("#{state.node} is at #{format_ip(ip)}, port #{port}, #{whence}: no EPMD is asked.")
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
      [{"the DNS", addresses(resolve(fn -> :inet_res.getbyname(name, type, @dns_timeout) end))}]
    end
  end

  # The last element of OTP's record hostent is the list of addresses.
  defp addresses({:ok, hostent}), do: {:ok, elem(hostent, tuple_size(hostent) - 1)}
  defp addresses({:error, reason}), do: {:error, reason}

  ## What they mean

  defp judge(state, ip, sources) do
    Enum.reject([loopback(state, ip), differ(state, ip, sources), found(state, ip, sources)], &is_nil/1)
  end

  defp found(state, ip, sources) do
    by = for {source, {:ok, ips}} <- sources, ip in ips, do: source

    cond do
      literal(state.host) == {:ok, ip} -> ok("The host of #{state.node} is an address, #{format_ip(ip)}.")
      by == [] -> ok("The host #{state.host} is #{format_ip(ip)}.")
      true -> ok("The host #{state.host} is #{format_ip(ip)}, by #{Enum.join(by, " and ")}.")
    end
  end

  defp differ(state, ip, sources) do
    case for {source, {:ok, ips}} <- sources,
             ip not in ips,
             do: "by #{source} it is #{Enum.map_join(ips, ", ", &format_ip/1)}" do
      [] ->
        nil

      others ->
        warning(
          "The host #{state.host} is #{format_ip(ip)}; #{Enum.join(others, ", ")}.",
          "This machine uses #{format_ip(ip)}; another machine may use another one.",
          "Correct the entry that is out of date."
        )
    end
  end

  # Debian gives a machine's own name the address 127.0.1.1.
  defp loopback(state, ip) do
    if HostAddress.loopback?(ip) and not own_host?(state) and literal(state.host) != {:ok, ip} and
         state.host != "localhost" do
      warning(
        "The host #{state.host} is #{format_ip(ip)}, which is this machine.",
        "If #{state.node} runs on another machine, this address is wrong. Debian writes 127.0.1.1 into /etc/hosts.",
        "Correct the entry for #{state.host} in /etc/hosts."
      )
    end
  end

  defp own_host?(%{here: nil, host: host}), do: host == to_string(:net_adm.localhost())
  defp own_host?(%{here: here, host: host}), do: String.ends_with?(Atom.to_string(here), "@" <> host)

  defp unknown(state, reason) do
    problem(
      "The host #{state.host} has no #{family(state.family)} address: #{NetworkError.format(reason)}.",
      why(state),
      remedy(state)
    )
  end

  defp why(state) do
    case for {source, {:error, reason}} <- sources(state), do: "#{source}: #{NetworkError.format(reason)}" do
      [] -> "There is nowhere to connect to."
      said -> "There is nowhere to connect to. Asked were #{Enum.join(said, ", ")}."
    end
  end

  defp remedy(%{family: family, host: host} = state) do
    other = if family == :inet, do: :inet6, else: :inet

    case resolve(fn -> :inet.getaddr(String.to_charlist(host), other) end) do
      {:ok, ip} ->
        "It has the #{family(other)} address #{format_ip(ip)}: start all nodes with -proto_dist #{protocol(state.tls, other)}, " <>
          "or give it one of #{family(family)}."

      {:error, _} ->
        "Add #{host} to /etc/hosts or to the DNS, or give the node a host that resolves. " <>
          "A host name must be either short or fully qualified."
    end
  end

  defp literal(host), do: :inet.parse_strict_address(String.to_charlist(host))

  defp family(:inet), do: "IPv4"
  defp family(:inet6), do: "IPv6"

  defp protocol(tls, family), do: "#{family}_#{if tls, do: "tls", else: "tcp"}"

  @doc "An address as it is written."
  @spec format_ip(:inet.ip_address()) :: String.t()
  def format_ip(ip), do: to_string(:inet.ntoa(ip))
end
