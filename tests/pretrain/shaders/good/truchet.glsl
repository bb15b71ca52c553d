// Shadertoy: arcs on a grid, turned at random.
#define TAU 6.28318530718
float random(vec2 cell) { return fract(sin(dot(cell, vec2(12.9898, 78.233))) * 43758.5453); }

void mainImage( out vec4 fragColor, in vec2 fragCoord )
{
    vec2 p = 7.0 * (fragCoord / iResolution.xy) + 0.3 * iTime;
    vec2 cell = floor(p), q = fract(p);
    if (random(cell) > 0.5) q.x = 1.0 - q.x;
    float arc = min(abs(length(q) - 0.5), abs(length(q - 1.0) - 0.5));
    float line = smoothstep(0.13, 0.1, arc);
    vec3 paint = 0.5 + 0.5 * cos(TAU * (0.1 * p.x + 0.07 * p.y + vec3(0.0, 0.33, 0.67)));
    vec3 color = mix(vec3(0.08, 0.09, 0.15), paint, line) * (0.6 + 0.4 * smoothstep(0.0, 0.1, arc));
    color += texture(iChannel0, fragCoord / iResolution.xy).rgb; // black here
    fragColor = vec4(color, 1.0);
}
