defmodule EmbeddedEpmd.Build.Download do
  @moduledoc false
  # Reads a file from an address, with what OTP has for it.

  @tries 3
  @connecting 10_000
  @reading 60_000

  @doc "The contents, or a sentence."
  def read("file://" <> _ = url) do
    path = url |> URI.parse() |> Map.get(:path) |> to_string() |> URI.decode()

    case File.read(path) do
      {:ok, contents} -> {:ok, contents}
      {:error, reason} -> {:error, "#{url} cannot be read: #{:file.format_error(reason)}"}
    end
  end

  def read(url) do
    if url =~ ~r{^https?://[^/]},
      do: with_client(url, fn client -> request(url, client, @tries) end),
      else: {:error, "#{url} is no address: it must begin with https://, http:// or file://"}
  end

  defp with_client(url, read) do
    with :ok <- start(:inets), :ok <- if(https?(url), do: start(:ssl), else: :ok) do
      # A client of its own, since the settings are the client's.
      {:ok, client} = :inets.start(:httpc, [profile: :embedded_epmd], :stand_alone)

      try do
        :ok = :httpc.set_options([ipfamily: :inet6fb4] ++ proxies(), client)
        read.(client)
      after
        :inets.stop(:stand_alone, client)
      end
    end
  end

  # Mix hides the applications of OTP that a project does not name, and Debian packs them apart.
  defp start(application) do
    if function_exported?(Mix, :ensure_application!, 1), do: apply(Mix, :ensure_application!, [application])

    case Application.ensure_all_started(application) do
      {:ok, _} -> :ok
      {:error, _} -> {:error, "this Erlang has no #{application}"}
    end
  rescue
    Mix.Error -> {:error, "this Erlang has no #{application}"}
  end

  defp request(url, client, tries) do
    case :httpc.request(:get, {String.to_charlist(url), []}, options(url), [body_format: :binary], client) do
      {:ok, {{_, 200, _}, _, contents}} ->
        {:ok, contents}

      {:ok, {{_, status, _}, _, _}} when status < 500 or tries == 1 ->
        {:error, "#{url} was answered with status #{status}"}

      {:error, reason} when tries == 1 ->
        {:error, "#{url} cannot be read: #{describe(reason)}"}

      _ ->
        request(url, client, tries - 1)
    end
  end

  defp describe({:failed_connect, [_ | causes]}), do: describe(List.last(causes))
  defp describe({_, _, reason}), do: describe(reason)
  defp describe({:tls_alert, {_, text}}), do: List.to_string(text)
  defp describe(reason), do: inspect(reason)

  defp options(url) do
    [timeout: @reading, connect_timeout: @connecting] ++
      proxy_user(url) ++ if(https?(url), do: [ssl: verified()], else: [])
  end

  defp verified do
    authorities =
      case variable("HEX_CACERTS_PATH") do
        nil -> [cacerts: :public_key.cacerts_get()]
        file -> [cacertfile: file]
      end

    host = [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
    [verify: :verify_peer, depth: 4, customize_hostname_check: host] ++ authorities
  end

  defp proxies do
    except = for host <- String.split(variable("NO_PROXY") || "", [",", " "], trim: true), do: String.to_charlist(host)

    for {option, name} <- [proxy: "HTTP_PROXY", https_proxy: "HTTPS_PROXY"],
        proxy = proxy(name),
        do: {option, {{String.to_charlist(proxy.host), proxy.port}, except}}
  end

  defp proxy_user(url) do
    case proxy(if(https?(url), do: "HTTPS_PROXY", else: "HTTP_PROXY")) do
      %URI{userinfo: user} when is_binary(user) ->
        [name | password] =
          for part <- String.split(user, ":", parts: 2), do: part |> URI.decode() |> String.to_charlist()

        [proxy_auth: {name, List.first(password) || []}]

      _ ->
        []
    end
  end

  defp proxy(name) do
    value = variable(name)
    if value, do: URI.parse(if(value =~ "://", do: value, else: "http://" <> value))
  end

  defp variable(name),
    do: Enum.find([System.get_env(name), System.get_env(String.downcase(name))], &(&1 not in [nil, ""]))

  defp https?(url), do: String.starts_with?(url, "https:")
end
