defmodule EmbeddedEpmd.Build.Download do
  @moduledoc false
  # Reads a file from an address, with what OTP has for it.

  @client :embedded_epmd
  @tries 3
  @connecting 10_000
  @reading 60_000

  @doc "The contents, or a sentence. The environment may name proxies and authorities."
  def read(url, environment \\ System.get_env())

  def read("file://" <> _ = url, _) do
    path = url |> URI.parse() |> Map.get(:path) |> to_string() |> URI.decode()

    case File.read(path) do
      {:ok, contents} -> {:ok, contents}
      {:error, reason} -> {:error, "#{url} cannot be read: #{:file.format_error(reason)}"}
    end
  end

  def read(url, environment) do
    with :ok <- start(:inets), :ok <- start(:ssl) do
      # A client of its own, since the settings are the client's.
      {:ok, client} = :inets.start(:httpc, profile: @client)

      try do
        :ok = :httpc.set_options([ipfamily: :inet6fb4] ++ proxies(environment), @client)
        request(url, environment, @tries)
      after
        :inets.stop(:httpc, client)
      end
    end
  end

  @doc "Starts an application of OTP: Mix hides those that a project does not name, and Debian packs them apart."
  def start(application) do
    if function_exported?(Mix, :ensure_application!, 1), do: apply(Mix, :ensure_application!, [application])

    case Application.ensure_all_started(application) do
      {:ok, _} -> :ok
      {:error, _} -> {:error, "this Erlang has no #{application}"}
    end
  rescue
    Mix.Error -> {:error, "this Erlang has no #{application}"}
  end

  defp request(url, environment, tries) do
    case :httpc.request(:get, {String.to_charlist(url), []}, options(url, environment), [body_format: :binary], @client) do
      {:ok, {{_, 200, _}, _, contents}} ->
        {:ok, contents}

      {:ok, {{_, status, _}, _, _}} when status < 500 or tries == 1 ->
        {:error, "#{url} was answered with status #{status}"}

      {:error, reason} when tries == 1 ->
        {:error, "#{url} cannot be read: #{describe(reason)}"}

      _ ->
        request(url, environment, tries - 1)
    end
  end

  defp describe({:failed_connect, [_ | causes]}), do: describe(List.last(causes))
  defp describe({_, _, reason}), do: describe(reason)
  defp describe({:tls_alert, {_, text}}), do: List.to_string(text)
  defp describe(reason), do: inspect(reason)

  defp options(url, environment) do
    [timeout: @reading, connect_timeout: @connecting] ++
      proxy_user(url, environment) ++ if(https?(url), do: [ssl: verified(environment)], else: [])
  end

  defp verified(environment) do
    authorities =
      case variable("HEX_CACERTS_PATH", environment) do
        nil -> [cacerts: :public_key.cacerts_get()]
        file -> [cacertfile: file]
      end

    host = [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
    [verify: :verify_peer, depth: 4, log_level: :error, customize_hostname_check: host] ++ authorities
  end

  defp proxies(environment) do
    except =
      for host <- String.split(variable("NO_PROXY", environment) || "", [",", " "], trim: true),
          do: String.to_charlist(host)

    for {option, name} <- [proxy: "HTTP_PROXY", https_proxy: "HTTPS_PROXY"],
        proxy = proxy(name, environment),
        do: {option, {{String.to_charlist(proxy.host), proxy.port}, except}}
  end

  defp proxy_user(url, environment) do
    case proxy(if(https?(url), do: "HTTPS_PROXY", else: "HTTP_PROXY"), environment) do
      %URI{userinfo: user} when is_binary(user) ->
        [name | password] =
          for part <- String.split(user, ":", parts: 2), do: part |> URI.decode() |> String.to_charlist()

        [proxy_auth: {name, List.first(password) || []}]

      _ ->
        []
    end
  end

  defp proxy(name, environment) do
    value = variable(name, environment)
    if value, do: URI.parse(if(value =~ "://", do: value, else: "http://" <> value))
  end

  defp variable(name, environment) do
    Enum.find([environment[name], environment[String.downcase(name)]], &(&1 not in [nil, ""]))
  end

  defp https?(url), do: String.starts_with?(url, "https:")
end
