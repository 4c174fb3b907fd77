defmodule EmbeddedEpmd.Build.Download do
  @moduledoc false
  # Reads a file from an address, within limits: whoever answers there may be another than was meant.

  alias EmbeddedEpmd.Build.Http

  @tries 3
  # For one try, with its redirects; milliseconds.
  @time 60_000
  # For all tries together; bytes. A library has less than one megabyte.
  @bytes 64 * 1024 * 1024
  @redirects 5

  @doc "The longest that is downloaded, in bytes."
  def limit, do: @bytes

  @doc """
  Writes the contents of a URL into a file; the error is a sentence. The environment may name proxies and authorities.

  It ends after 64 MiB and 3 tries of a minute, whatever the other side sends; `:bytes` and `:time` change that.
  """
  def save(url, path, environment \\ System.get_env(), limits \\ [])

  def save("file://" <> _ = url, path, _, limits) do
    source = url |> URI.parse() |> Map.get(:path) |> to_string() |> URI.decode()
    bytes = limits[:bytes] || @bytes

    case File.copy(source, path, bytes + 1) do
      {:ok, count} when count > bytes -> {:error, too_long(url)}
      {:ok, _count} -> :ok
      {:error, reason} -> {:error, "#{url} cannot be read: #{:file.format_error(reason)}"}
    end
  end

  def save(url, path, environment, limits) do
    left = :counters.new(1, [])
    :counters.put(left, 1, limits[:bytes] || @bytes)

    case :file.open(path, [:write, :raw, :binary]) do
      {:ok, file} ->
        job = %{url: url, file: file, environment: environment, time: limits[:time] || @time, left: left}
        saved = request(job, @tries)
        :file.close(file)
        saved

      {:error, reason} ->
        {:error, "#{path} cannot be written: #{:file.format_error(reason)}"}
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

  defp request(job, tries) do
    {:ok, 0} = :file.position(job.file, 0)
    :ok = :file.truncate(job.file)
    deadline = System.monotonic_time(:millisecond) + job.time

    case follow(URI.parse(job.url), job, deadline, @redirects) do
      :ok -> :ok
      {:status, status} when status >= 500 and tries > 1 -> request(job, tries - 1)
      {:status, status} -> {:error, "#{job.url} was answered with status #{status}"}
      {:error, :too_long} -> {:error, too_long(job.url)}
      {:error, sentence} when is_binary(sentence) -> {:error, "#{job.url} cannot be read: #{sentence}"}
      {:error, _reason} when tries > 1 -> request(job, tries - 1)
      {:error, reason} -> {:error, "#{job.url} cannot be read: #{describe(reason)}"}
    end
  end

  defp follow(_url, _job, _deadline, -1), do: {:error, "it is redirected more than #{@redirects} times"}

  defp follow(url, %{environment: environment} = job, deadline, redirects) do
    with {:ok, tls} <- tls(url, environment),
         options = %{proxy: proxy(url, environment), tls: tls, deadline: deadline, left: job.left},
         {:redirect, location} <- Http.get(url, job.file, options),
         {:ok, next} <- redirected(url, location),
         do: follow(next, job, deadline, redirects - 1)
  end

  # What is encrypted stays so.
  defp redirected(url, location) do
    next = if location =~ ~r/\A[!-~]+\z/, do: URI.merge(url, location), else: %URI{}

    if next.scheme in ["https", url.scheme] and next.host not in [nil, ""],
      do: {:ok, next},
      else: {:error, "it is redirected to what is no address for it"}
  end

  defp too_long(url), do: "#{url} is longer than any library, more than #{div(@bytes, 1024 * 1024)} MiB in all tries"

  defp describe(:timeout), do: "no answer in time"
  defp describe(:no_http), do: "what answers does not speak HTTP"
  defp describe({:proxy, status}), do: "the proxy answers with status #{status}"
  defp describe({:tls_alert, {_, text}}), do: List.to_string(text)
  defp describe({:file, reason}), do: "#{:file.format_error(reason)} when it was written"
  defp describe(reason), do: inspect(reason)

  defp tls(%URI{scheme: "https"}, environment), do: with(:ok <- start(:ssl), do: {:ok, verified(environment)})
  defp tls(_url, _environment), do: {:ok, []}

  defp verified(environment) do
    authorities =
      case variable("HEX_CACERTS_PATH", environment) do
        nil -> [cacerts: :public_key.cacerts_get()]
        file -> [cacertfile: file]
      end

    host = [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
    [verify: :verify_peer, depth: 4, log_level: :error, customize_hostname_check: host] ++ authorities
  end

  defp proxy(url, environment) do
    value = variable(if(url.scheme == "https", do: "HTTPS_PROXY", else: "HTTP_PROXY"), environment)

    if value && not direct?(url.host, environment) do
      proxy = URI.parse(if(value =~ "://", do: value, else: "http://" <> value))
      %{proxy | port: proxy.port || 80}
    end
  end

  # Names of hosts, and of domains with or without a dot or `*.` before them.
  defp direct?(host, environment) do
    entries = String.split(variable("NO_PROXY", environment) || "", [",", " "], trim: true)

    Enum.any?(entries, fn entry ->
      domain = String.replace(entry, ~r/^\*?\./, "")
      entry == "*" or host == domain or String.ends_with?(host, "." <> domain)
    end)
  end

  defp variable(name, environment) do
    Enum.find([environment[name], environment[String.downcase(name)]], &(&1 not in [nil, ""]))
  end
end
